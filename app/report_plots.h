// The plots of a report, from the evaluation's JSON and the runs' metrics.
#pragma once

#include <string>

#include "app/report.h"

namespace trimtab {

std::string distribution_figures(const nlohmann::json& evaluation);
std::string frontier_figures(const nlohmann::json& evaluation);
std::string series_figures(const nlohmann::json& evaluation);
std::string learning_figures(const std::vector<ReportRun>& runs);

// Runs of language models, by what their metrics hold (report_language.cpp).
bool is_language(const ReportRun& run);
std::string language_figures(const std::vector<ReportRun>& runs);
std::string sample_sections(const std::vector<ReportRun>& runs);

}  // namespace trimtab
