# SPDX-License-Identifier: Apache-2.0
# case: quick limit=120
perl "$PROGRAMS/text.pl"
