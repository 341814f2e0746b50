#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "core/error.h"
#include "core/run_folder.h"

namespace trimtab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kRedrawSeconds = 0.1;  // on a terminal
constexpr double kLineSeconds = 10;     // in a log file

// "940", "12.3k", "4.00M": three significant digits are what a reader can follow.
std::string brief(double count) {
  const char* suffix = "";
  if (std::abs(count) >= 1e9) {
    count /= 1e9, suffix = "G";
  } else if (std::abs(count) >= 1e6) {
    count /= 1e6, suffix = "M";
  } else if (std::abs(count) >= 1e3) {
    count /= 1e3, suffix = "k";
  }
  return *suffix == '\0' && count == std::floor(count) ? fmt::format("{}", count)
                                                       : fmt::format("{:#.3g}{}", count, suffix);
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::lround(std::min(seconds, 1e9)));
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

size_t terminal_columns() {
  constexpr size_t kUsual = 80;
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsual;
}

}  // namespace

struct Progress::Impl {
  std::string label, unit, status;
  int64_t total = 0, first = -1, done = 0;
  bool terminal = isatty(STDERR_FILENO) == 1;
  Clock::time_point start = Clock::now(), last_drawn = start;
  bool drawn = false, current = false;

  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start).count(); }

  std::string figures() const {
    const double rate = elapsed() > 0 ? static_cast<double>(done - first) / elapsed() : 0;
    std::string out = brief(static_cast<double>(done));
    if (total > 0) out += "/" + brief(static_cast<double>(total));
    out += fmt::format(" {}  {}/s  {}", unit, brief(std::round(rate * 10) / 10), clock_text(elapsed()));
    if (total > 0 && rate > 0 && done < total)
      out += fmt::format("  {} left", clock_text(static_cast<double>(total - done) / rate));
    if (!status.empty()) out += "  " + status;
    return out;
  }

  void draw() {
    const double share =
        total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0;
    const std::string percent = total > 0 ? fmt::format("{:3.0f}%", std::floor(share * 100)) : "";
    if (terminal) {
      constexpr int kBarWidth = 20;
      const int full = static_cast<int>(share * kBarWidth);
      const std::string bar =
          total > 0 ? " [" + std::string(full, '#') + std::string(kBarWidth - full, ' ') + "]" : "";
      std::string line = fmt::format("{} {}{} {}", label, percent, bar, figures());
      line.resize(std::min(line.size(), terminal_columns() - 1));
      std::fprintf(stderr, "\r\033[K%s", line.c_str());
    } else {
      std::fprintf(stderr, "%s %s %s\n", label.c_str(), percent.c_str(), figures().c_str());
    }
    std::fflush(stderr);
    drawn = current = true;
    last_drawn = Clock::now();
  }
};

Progress::Progress(std::string label, int64_t total, std::string unit) : impl_(std::make_unique<Impl>()) {
  impl_->label = std::move(label);
  impl_->total = total;
  impl_->unit = std::move(unit);
}

// The last state is always shown, so that a log file ends with where the run ended.
Progress::~Progress() {
  if (impl_->first >= 0 && !impl_->current) impl_->draw();
  if (impl_->terminal && impl_->drawn) std::fputc('\n', stderr);
}

void Progress::update(int64_t done, const std::string& status) {
  if (impl_->first < 0) impl_->first = done;
  impl_->done = done;
  impl_->status = status;
  impl_->current = false;
  const double wait = impl_->terminal ? kRedrawSeconds : kLineSeconds;
  if (std::chrono::duration<double>(Clock::now() - impl_->last_drawn).count() >= wait) impl_->draw();
}

}  // namespace trimtab
