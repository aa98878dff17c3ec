// SPDX-License-Identifier: Apache-2.0
// The C++ run-time library: exceptions through many frames, streams, containers, threads with every kind of waiting.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <iomanip>
#include <iostream>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

struct Counted {
  static inline int alive = 0, most = 0;
  Counted() { most = std::max(most, ++alive); }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --alive; }
};

int deep(int depth) {
  Counted counted;
  if (depth == 0) throw std::runtime_error("from the depth");
  try {
    return deep(depth - 1) + 1;
  } catch (const std::logic_error&) {
    return -1;
  }
}

void exceptions() {
  int caught = 0;
  for (int i = 0; i < 2000; ++i) {
    try {
      deep(i % 50);
    } catch (const std::exception& error) {
      caught += std::string(error.what()).size() == 14;
    }
  }
  std::cout << caught << ' ' << Counted::alive << ' ' << Counted::most << '\n';
  try {
    try {
      throw 7;
    } catch (int) {
      std::throw_with_nested(std::out_of_range("outer"));
    }
  } catch (const std::exception& error) {
    try {
      std::rethrow_if_nested(error);
    } catch (int value) {
      std::cout << error.what() << ' ' << value << '\n';
    }
  }
}

void containers() {
  std::mt19937_64 random(7);
  std::vector<double> values(100000);
  std::uniform_real_distribution<double> range(-1, 1);
  std::normal_distribution<double> bell;
  for (auto& value : values) value = range(random) + bell(random);
  std::sort(values.begin(), values.end());
  std::cout << std::hexfloat << std::accumulate(values.begin(), values.end(), 0.0) << ' ' << values[777]
            << std::defaultfloat << '\n';
  std::map<std::string, int> words;
  std::unordered_map<std::uint64_t, int> buckets;
  for (int i = 0; i < 50000; ++i) ++words["w" + std::to_string(random() % 97)], ++buckets[random() % 1013];
  for (auto& [word, count] : words) std::cout << word << '=' << count << ' ';
  std::cout << buckets.size() << '\n';
  std::ostringstream text;
  for (int i = 0; i < 1000; ++i)
    text << std::setw(8) << std::setprecision(i % 17) << values[i * 99] << std::hex << i << std::dec << ' ';
  std::istringstream back(text.str());
  std::string word;
  std::size_t sum = 0, count = 0;
  while (back >> word) sum = sum * 31 + std::hash<std::string>{}(word), ++count;
  std::cout << count << ' ' << sum << ' '
            << std::regex_replace(std::string("a1b22c333"), std::regex("([0-9]+)"), "<$1>") << '\n';
}

void threads() {
  constexpr int kThreads = 8, kRounds = 20000;
  std::atomic<long> atomic_sum = 0;
  alignas(16) static struct Pair {
    std::uint64_t low, high;
  } wide = {0, 0};
  long locked_sum = 0;
  std::mutex mutex;
  std::vector<std::thread> workers;
  for (int t = 0; t < kThreads; ++t) {
    workers.emplace_back([&, t] {
      thread_local long own = 0;
      for (int i = 0; i < kRounds; ++i) {
        own += i % (t + 3);
        atomic_sum.fetch_add(i & t);
        long seen = atomic_sum.load();
        while (!atomic_sum.compare_exchange_weak(seen, seen + 1)) {
        }
        if (i % 16 == 0) {
          std::lock_guard lock(mutex);
          ++wide.low, wide.high += 2;
          if (i % 1024 == 0) std::this_thread::yield();
        }
      }
      std::lock_guard lock(mutex);
      locked_sum += own;
    });
  }
  for (auto& worker : workers) worker.join();
  std::cout << atomic_sum << ' ' << locked_sum << ' ' << wide.low << ' ' << wide.high << '\n';

  std::mutex gate;
  std::condition_variable turn;
  int ball = 0;
  auto player = [&](int side) {
    for (int i = 0; i < 2000; ++i) {
      std::unique_lock lock(gate);
      turn.wait(lock, [&] { return ball % 2 == side; });
      ++ball;
      turn.notify_all();
    }
  };
  std::thread left(player, 0), right(player, 1);
  left.join();
  right.join();
  std::vector<std::future<long double>> results;
  for (int t = 0; t < 6; ++t) {
    results.push_back(std::async(std::launch::async, [t] {
      long double sum = t;
      for (int i = 0; i < 300000; ++i) sum = sum * 0.9999L + i;
      return sum;
    }));
  }
  std::cout << ball;
  for (auto& result : results) std::cout << ' ' << std::setprecision(20) << result.get();
  auto failing = std::async(std::launch::async, []() -> int { throw std::domain_error("in a thread"); });
  try {
    failing.get();
  } catch (const std::domain_error& error) {
    std::cout << ' ' << error.what() << '\n';
  }
}

}  // namespace

int main() {
  exceptions();
  containers();
  threads();
}
