// The functions of each format (schedule_formats.h), and what they share. Internal to domain/draft_schedule.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "domain/draft_schedule/draft_schedule.h"

namespace trimtab {

// The schedule is valid.
std::string write_vllm_schedule(const DraftSchedule& schedule);
std::string write_tensorrt_llm_schedule(const DraftSchedule& schedule);
std::string write_sglang_schedule(const DraftSchedule& schedule);

// `rest` is valid; the entries read replace its own.
DraftSchedule read_vllm_schedule(const std::string& text, const std::string& file, const DraftSchedule& rest);
DraftSchedule read_tensorrt_llm_schedule(const std::string& text, const std::string& file,
                                         const DraftSchedule& rest);
DraftSchedule read_sglang_schedule(const std::string& text, const std::string& file,
                                   const DraftSchedule& rest);

// DataError "FORMAT cannot represent the draft schedule: fault; cure".
[[noreturn]] void cannot_schedule(const std::string& format, const std::string& fault,
                                  const std::string& cure);

// For formats that know batch sizes alone and name the draft model: refuses tiers and a schedule without
// draft_source.
void check_plain_schedule(const DraftSchedule& schedule, const std::string& format);

std::string shown_batches(const DraftEntry& entry);  // "batch sizes 5 to 8"

// "1", "64": decimal digits without a sign or a zero in front, 0 to `most`; nothing otherwise.
std::optional<int64_t> whole_number(std::string_view text, int64_t most);

}  // namespace trimtab
