# SPDX-License-Identifier: Apache-2.0
# case: full limit=7200
# The rest of Python's tests that look at the processor and at the kernel's interface: numbers, strings, memory, threads,
# signals, processes, foreign calls with every argument class.
for name in long int complex cmath decimal fractions statistics random array bytes bigmem unicode re json pickle sort dict set \
  list hash binascii bz2 lzma gzip zipfile ctypes mmap memoryview threading thread queue signal faulthandler fork1 wait3 wait4 \
  posix select poll epoll pipes subprocess generators coroutines exceptions setcomps itertools heapq bisect compile ast dis \
  marshal codecs codeccallbacks textwrap difflib deque defaultdict functools operator range slice tuple time datetime calendar \
  strtod numeric_tower colorsys crypt hmac secrets uuid tempfile shutil glob os_path posixpath fcntl io bufio file largefile; do
  [ -e "/usr/lib/python3.11/test/test_$name.py" ] || [ -d "/usr/lib/python3.11/test/test_$name" ] || continue
  timeout -s KILL 1200 python3 -W ignore -m test -v "test_$name" >log 2>&1
  echo "== test_$name: status $?"
  grep -E ' \.\.\. (ok|FAIL|ERROR)$|^(FAILED|ERROR|FAIL)' log | sort
done
