# SPDX-License-Identifier: Apache-2.0
# case: quick limit=400
# Python's own tests of hashes and compression.
for name in hashlib zlib; do
  echo "== test_$name"
  python3 -W ignore -m test -v "test_$name" >log 2>&1
  echo "status $?"
  grep -E ' \.\.\. |^(OK|FAILED|ERROR|FAIL)|^Ran ' log | sed 's/ in [0-9.]*s$//' | sort
done
