# SPDX-License-Identifier: Apache-2.0
# case: quick limit=120
python3 "$PROGRAMS/figures.py"
