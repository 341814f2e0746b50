// A trained run of draft_length as a draft schedule, lengths by batch size, and as the files of other programs.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "domain/draft_schedule/draft_schedule.h"

namespace trimtab {

struct ScheduleExportRequest {
  std::string run, checkpoint = "best";
  std::string recording;       // "": the first one the run was trained on
  int64_t most_entries = 8;    // ranges of batch sizes, at most
};

// Prints what the table loses against the network at every batch size. ConfigError for a run of another environment.
DraftSchedule schedule_of_run(const ScheduleExportRequest& request);

std::vector<std::string> schedule_forms();   // "schedule" and the names of draft_schedule_formats()
// What is written; ConfigError for an unknown form, DataError for one that cannot say the schedule.
std::string schedule_text(const DraftSchedule& schedule, const std::string& form);
// Writes FOLDER/schedule.json or FOLDER/schedule.FORM and says how the consumer is given it.
void write_schedule_form(const DraftSchedule& schedule, const std::string& form, const std::filesystem::path& folder);

}  // namespace trimtab
