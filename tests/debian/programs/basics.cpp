// SPDX-License-Identifier: Apache-2.0
// A little of everything: random numbers, sorting, maps, exceptions, threads.
#include <algorithm>
#include <iomanip>
#include <iostream>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
int deep(int n) {
  if (n == 0) throw std::runtime_error("from the depth");
  return deep(n - 1) + 1;
}
int main() {
  std::mt19937_64 random(7);
  std::vector<double> values(100000);
  std::uniform_real_distribution<double> range(-1, 1);
  for (auto& value : values) value = range(random);
  std::sort(values.begin(), values.end());
  std::cout << std::setprecision(17) << std::accumulate(values.begin(), values.end(), 0.0) << ' ' << values[777]
            << '\n';
  std::map<std::string, int> words;
  for (int i = 0; i < 5000; ++i) ++words["w" + std::to_string(random() % 97)];
  for (auto& [word, count] : words) std::cout << word << '=' << count << ' ';
  std::cout << '\n';
  try {
    deep(100);
  } catch (const std::exception& error) {
    std::cout << error.what() << '\n';
  }
  long total = 0;
  std::vector<std::thread> threads;
  std::vector<long> parts(4);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100000; ++i) parts[t] += i % (t + 3);
    });
  for (auto& thread : threads) thread.join();
  for (long part : parts) total += part;
  std::cout << total << '\n';
}
