#include "domain/draft_schedule/schedule_formats.h"

#include <charconv>

#include "core/error.h"
#include "core/registry.h"
#include "core/text.h"
#include "domain/draft_schedule/schedule_format_functions.h"

namespace trimtab {

void cannot_schedule(const std::string& format, const std::string& fault, const std::string& cure) {
  throw DataError(fmt::format("{} cannot represent the draft schedule: {}; {}", format, fault, cure));
}

std::string shown_batches(const DraftEntry& entry) {
  return entry.first_batch == entry.last_batch
             ? fmt::format("batch size {}", entry.first_batch)
             : fmt::format("batch sizes {} to {}", entry.first_batch, entry.last_batch);
}

void check_plain_schedule(const DraftSchedule& schedule, const std::string& format) {
  for (const DraftEntry& entry : schedule.entries) {
    if (entry.adaptive)
      cannot_schedule(format, "tiers by accepted length at " + shown_batches(entry),
                      "leave 'adaptive' out, or write the format 'sglang'");
  }
  if (schedule.models.draft_source.empty())
    cannot_schedule(format, "it names the draft model, and /models/draft_source is not there",
                    "state what the draft model is loaded from");
}

std::optional<int64_t> whole_number(std::string_view text, int64_t most) {
  int64_t number = -1;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool plain = error == std::errc() && stop == text.data() + text.size() && text[0] != '-' &&
                     (text[0] != '0' || text.size() == 1);
  return plain && number <= most ? std::optional(number) : std::nullopt;
}

const std::vector<DraftScheduleFormat>& draft_schedule_formats() {
  static const std::vector<DraftScheduleFormat> formats = {
      {"vllm",
       "vLLM's dynamic speculative decoding (vllm#32374): the JSON of --speculative-config with [first "
       "batch, last batch, k]",
       "vllm serve MODEL --speculative-config \"$(cat FILE)\"", write_vllm_schedule, read_vllm_schedule},
      {"tensorrt_llm",
       "TensorRT-LLM's draft_len_schedule (TensorRT-LLM#10860, #12262): YAML, last batch size: k; 0 above "
       "the last",
       "trtllm-serve MODEL --config FILE", write_tensorrt_llm_schedule, read_tensorrt_llm_schedule},
      {"sglang",
       "SGLang's adaptive steps (sglang#21599, #24055): JSON, first batch size: candidate steps, EMA and "
       "hysteresis",
       "python3 -m sglang.launch_server --model-path MODEL --speculative-algorithm EAGLE "
       "--speculative-draft-model-path DRAFT "
       "--speculative-eagle-topk 1 --speculative-adaptive --speculative-adaptive-config FILE",
       write_sglang_schedule, read_sglang_schedule},
  };
  return formats;
}

const DraftScheduleFormat& draft_schedule_format(const std::string& name) {
  std::vector<std::string> names;
  for (const DraftScheduleFormat& format : draft_schedule_formats()) {
    if (format.name == name) return format;
    names.push_back(format.name);
  }
  const std::string near = nearest(name, names);
  throw ConfigError(fmt::format(
      "unknown draft schedule format '{}'; {}", name,
      near.empty() ? "expected one of " + join(names, ", ") : fmt::format("did you mean '{}'?", near)));
}

std::string write_draft_format(const std::string& format, const DraftSchedule& schedule) {
  const DraftScheduleFormat& found = draft_schedule_format(format);
  check_draft_schedule(schedule, "the draft schedule");
  return found.write(schedule);
}

DraftSchedule read_draft_format(const std::string& format, const std::string& text, const std::string& file,
                                const DraftSchedule& rest) {
  const DraftScheduleFormat& found = draft_schedule_format(format);
  if (text.size() > DraftSchedule::kMaxBytes)
    throw DataError(fmt::format("{}: {} bytes; a draft schedule has at most {}", file, text.size(),
                                DraftSchedule::kMaxBytes));
  check_draft_schedule(rest, "the draft schedule that supplies the rest");
  DraftSchedule out = found.read(text, file, rest);
  for (DraftEntry& entry : out.entries) {
    for (const DraftEntry& before : rest.entries) {
      entry.tokens_per_s = before.tokens_per_s;
      if (entry == before) break;
      entry.tokens_per_s = std::nullopt;
    }
  }
  check_draft_schedule(out, file);
  return out;
}

}  // namespace trimtab
