# SPDX-License-Identifier: Apache-2.0
# case: quick limit=240
# Python's own tests of numbers. Names and verdicts are compared: neither order nor duration is a result.
for name in math struct float; do
  echo "== test_$name"
  python3 -W ignore -m test -v "test_$name" >log 2>&1
  echo "status $?"
  grep -E ' \.\.\. |^(OK|FAILED|ERROR|FAIL)|^Ran ' log | sed 's/ in [0-9.]*s$//' | sort
done
