// Our side of the training comparisons: trimtab's own training loop on one configuration file. Worker of
// bench/harness.py:
//   bench_classic_training CONFIG [a.b=c...]                every "go" is a fresh run; its rate leaves out
//   the first update bench_classic_training CONFIG --until RETURN [a.b=c...] one run: seconds until the
//   training episodes' mean return over the
//                                                           last updates with at least 100 episodes reaches
//                                                           RETURN, and the curve
//   bench_classic_training CONFIG --curve METRIC [a.b=c...] one run: [step, value] of that metric
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/config.h"
#include "trainers/train.h"

namespace {

using Clock = std::chrono::steady_clock;
using Metrics = std::vector<std::pair<std::string, double>>;

struct Point {
  int64_t step;
  double value, seconds;
};
struct Goal {};  // thrown out of a run that has reached its return

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

const double* find(const Metrics& metrics, const std::string& name) {
  for (const auto& [key, value] : metrics)
    if (key == name) return &value;
  return nullptr;
}

// A folder of its own per run, gone afterwards.
struct Folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("trimtab-bench-" + std::to_string(getpid()));
  Folder() {
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

void run(const trimtab::Config& config, const std::function<void(int64_t, const Metrics&)>& on_metrics) {
  const Folder folder;
  trimtab::train(config,
                 {.run_folder = folder.path, .progress = false, .score = {}, .on_metrics = on_metrics});
}

double training_rate(const trimtab::Config& config) {
  int64_t first_step = 0, last_step = 0;
  Clock::time_point first, last;
  run(config, [&](int64_t step, const Metrics&) {
    last = Clock::now();
    last_step = step;
    if (first_step == 0) first_step = step, first = last;
  });
  return static_cast<double>(last_step - first_step) / std::chrono::duration<double>(last - first).count();
}

void print_curve(const std::vector<Point>& points) {
  std::printf("\"curve\": [");
  for (size_t i = 0; i < points.size(); ++i)
    std::printf("%s[%lld, %.2f]", i ? ", " : "", static_cast<long long>(points[i].step), points[i].value);
  std::printf("]");
}

void run_until(const trimtab::Config& config, double wanted) {
  struct Update {
    double mean, episodes;
  };
  constexpr double kWindow = 100;
  std::deque<Update> window;
  std::vector<Point> points;
  const auto begin = Clock::now();
  int64_t previous = 0;
  try {
    run(config, [&](int64_t step, const Metrics& metrics) {
      const double* mean = find(metrics, "train/return");
      const double* length = find(metrics, "train/length");
      if (!mean || !length) return;
      window.push_back({*mean, static_cast<double>(step - previous) / *length});
      previous = step;
      double sum = 0, count = 0;
      for (const Update& u : window) sum += u.mean * u.episodes, count += u.episodes;
      while (count - window.front().episodes >= kWindow) {
        sum -= window.front().mean * window.front().episodes;
        count -= window.front().episodes;
        window.pop_front();
      }
      points.push_back({step, sum / count, seconds_since(begin)});
      if (count >= kWindow && sum / count >= wanted) throw Goal{};
    });
    std::printf("{\"seconds\": null, ");
  } catch (const Goal&) {
    std::printf("{\"seconds\": %.4f, ", points.back().seconds);
  }
  print_curve(points);
  std::printf("}\n");
}

void run_curve(const trimtab::Config& config, const std::string& name) {
  std::vector<Point> points;
  run(config, [&](int64_t step, const Metrics& metrics) {
    if (const double* value = find(metrics, name)) points.push_back({step, *value, 0});
  });
  std::printf("{");
  print_curve(points);
  std::printf("}\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2)
    return std::fprintf(
               stderr, "usage: bench_classic_training CONFIG [--until RETURN | --curve METRIC] [a.b=c...]\n"),
           2;
  try {
    trimtab::Config config = trimtab::Config::load(argv[1]);
    std::string until, curve;
    for (int i = 2; i < argc; ++i) {
      const std::string_view word = argv[i];
      if (word == "--until" && i + 1 < argc)
        until = argv[++i];
      else if (word == "--curve" && i + 1 < argc)
        curve = argv[++i];
      else
        config.apply(argv[i]);
    }
    if (!until.empty()) return run_until(config, std::stod(until)), 0;
    if (!curve.empty()) return run_curve(config, curve), 0;
    std::printf("{\"ready\": true}\n");
    std::fflush(stdout);
    char line[64];
    while (std::fgets(line, sizeof line, stdin)) {
      std::printf("{\"rate\": %.1f}\n", training_rate(config));
      std::fflush(stdout);
    }
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "bench_classic_training: %s\n", e.what()), 2;
  }
}
