// Opening traces. The file is described by trace_format, converted by trace_gains, its drops kept by
// trace_cache.
#include "domain/radio/trace.h"

#include "core/files.h"
#include "domain/radio/trace_cache.h"
#include "domain/radio/trace_format.h"
#include "domain/radio/trace_gains.h"
#include "domain/radio/trace_untrusted.h"

namespace trimtab::radio {
namespace {

class FileTrace : public TraceSource {
 public:
  FileTrace(const std::filesystem::path& file, const TraceOptions& options)
      : trace_(file, options), source_(DropCache::get().new_source()) {
    trace_.format.info.hash = hash_file(file);
  }
  ~FileTrace() override { DropCache::get().forget(source_); }
  const TraceInfo& info() const override { return trace_.format.info; }
  std::shared_ptr<const DropGains> drop(int64_t index) const override {
    TT_CHECK(index >= 0 && index < info().num_drops, "drop {} of {}", index, info().num_drops);
    return DropCache::get().find(source_, index, [&] { return convert_drop(trace_, index); });
  }

 private:
  OpenTrace trace_;
  const int64_t source_;
};

}  // namespace

std::shared_ptr<TraceSource> open_trace(const std::filesystem::path& file, const TraceOptions& options) {
  if (options.untrusted) parse_in_child(file, options);
  return std::make_shared<FileTrace>(file, options);
}

DropGains read_gains(const std::filesystem::path& file, const TraceOptions& options, int64_t drop,
                     std::span<const int64_t> slots) {
  const OpenTrace trace(file, options);
  const TraceInfo& info = trace.format.info;
  if (drop < 0 || drop >= info.num_drops) {
    trace.file.fail(
        fmt::format("drop {} is asked for, the file has {} (counted from 0)", drop, info.num_drops));
  }
  for (const int64_t slot : slots) {
    if (slot >= 0 && slot < trace.format.num_slots(drop)) continue;
    trace.file.fail(fmt::format("slot {} is asked for, drop {} has {} (counted from 0)", slot, drop,
                                trace.format.num_slots(drop)));
  }
  return convert_slots(trace, drop, slots);
}

}  // namespace trimtab::radio
