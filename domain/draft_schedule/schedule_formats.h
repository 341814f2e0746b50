// Draft schedules in the formats of other programs, both ways.
//
// What these formats say is the draft length by batch size (SGLang: by batch size and accepted length).
// Hashes, vocabulary and names are not in them, so reading takes a schedule that supplies the rest. What a
// format can say survives the way there and back exactly; the others are refused when writing, with what the
// format cannot say and what to do. A new format is one pair of functions and one entry of the table in
// schedule_formats.cpp.
#pragma once

#include <string>
#include <vector>

#include "domain/draft_schedule/draft_schedule.h"

namespace trimtab {

struct DraftScheduleFormat {
  std::string name, doc;
  std::string use;  // how the consumer is given it; FILE is the file written
  std::string (*write)(const DraftSchedule& schedule);
  DraftSchedule (*read)(const std::string& text, const std::string& file, const DraftSchedule& rest);
};

const std::vector<DraftScheduleFormat>& draft_schedule_formats();
const DraftScheduleFormat& draft_schedule_format(const std::string& name);  // ConfigError naming the nearest

// DataError when the schedule is faulty or the format cannot represent it.
std::string write_draft_format(const std::string& format, const DraftSchedule& schedule);
// Everything the format does not say is that of `rest`: names, hashes, vocabulary; for sglang also `most`,
// the draft model's source and the end of the last entry. A measured fact stays where an entry turns out the
// same. DataError "FILE: ..." on anything malformed. At most 1 MiB.
DraftSchedule read_draft_format(const std::string& format, const std::string& text, const std::string& file,
                                const DraftSchedule& rest);

}  // namespace trimtab
