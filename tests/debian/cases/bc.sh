# SPDX-License-Identifier: Apache-2.0
# case: quick limit=300
export BC_LINE_LENGTH=0
echo "scale=$DIGITS; 4*a(1)" | bc -l
echo 'scale=100; e(1); l(10); s(0.5); j(2,3); sqrt(2); 2^1000; 12345678901234567890^20 % 987654321987654321' | bc -l
