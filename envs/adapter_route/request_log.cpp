#include "envs/adapter_route/request_log.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/filled_lines.h"
#include "core/random.h"

namespace trimtab {
namespace {

using nlohmann::json;

class LineReader {
 public:
  LineReader(std::string place, const std::string& line) : place_(std::move(place)), object_(json::parse(line, nullptr, false)) {
    if (!object_.is_object()) fail(R"(not a JSON object; write {"time_s": 0.5, "task": "add", "input_tokens": 40, "output_tokens": 96})");
  }
  double time_ms() const {
    const json& v = value("time_s");
    if (!v.is_number() || !(v.get<double>() >= 0 && v.get<double>() <= 1e12)) fail(fmt::format("'time_s' must be seconds from 0 on, got {}", v.dump()));
    return 1000 * v.get<double>();
  }
  int32_t tokens(const char* key) const {
    const json& v = value(key);
    if (!v.is_number_integer() || v < 1 || v > (1 << 20)) fail(fmt::format("'{}' must be an integer from 1 to {}, got {}", key, 1 << 20, v.dump()));
    return v.get<int32_t>();
  }
  int32_t task(const QualitySource& source) const {
    const json& v = value("task");
    const int64_t task = v.is_string() ? source.task_of(v.get<std::string>()) : -1;
    if (task < 0) fail(fmt::format("the quality tables have no task {}: it must be a text that labels one of theirs", v.dump()));
    return static_cast<int32_t>(task);
  }
  [[noreturn]] void fail(const std::string& what) const { throw DataError(fmt::format("{}: {}", place_, what)); }

 private:
  const json& value(const char* key) const {
    if (!object_.contains(key)) fail(fmt::format("'{}' is missing", key));
    return object_[key];
  }
  std::string place_;
  json object_;
};

}  // namespace

RequestLog::RequestLog(const std::string& file, int64_t requests, const QualitySource& source) : requests_(requests) {
  filled_lines(file, read_file(file), [&](std::string place, const std::string& line) {
    const LineReader reader(std::move(place), line);
    Request& r = all_.emplace_back();
    r.arrival_ms = reader.time_ms(), r.task = reader.task(source);
    r.input_tokens = reader.tokens("input_tokens"), r.output_tokens = reader.tokens("output_tokens");
    if (all_.size() > 1 && r.arrival_ms < all_[all_.size() - 2].arrival_ms) reader.fail("'time_s' is before that of the request above: sort the log by time");
  });
  if (std::ssize(all_) < requests)
    throw DataError(fmt::format("{}: {} requests, but an episode has {}: give a longer log, or lower env.requests.requests", file, all_.size(), requests));
}

void RequestLog::episode(WorldKey key, std::vector<Request>& out) const {
  Draws draws(world_of(key), Stream::kArrival, 0);
  const auto first = all_.begin() + draws.below(static_cast<uint32_t>(std::ssize(all_) - requests_ + 1));
  out.assign(first, first + requests_);
  const double start = out.front().arrival_ms;
  for (Request& r : out) r.arrival_ms -= start;
}

}  // namespace trimtab
