# SPDX-License-Identifier: Apache-2.0
# case: quick limit=600
g++ -O2 -std=c++20 -pthread -o basics "$PROGRAMS/basics.cpp" && sha256sum <basics && ./basics
