// The report's part for language models.
#include <gtest/gtest.h>

#include "app/report.h"

namespace trimtab {
namespace {

using nlohmann::json;

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

ReportRun run_of(const std::string& name) {
  ReportRun run{.name = name, .config = "", .metrics = {}};
  for (int step = 1; step <= 4; ++step)
    run.metrics.push_back({{"step", step}, {"train/reward", 0.1 * step}, {"train/entropy", 1.0 / step}, {"train/clipped_low", 0.01}, {"train/mismatch", 1e-6},
                           {"train/response_tokens", 30 - step}});
  for (const int step : {1, 3})
    run.metrics[step].update({{"eval/accuracy", 0.2 * step}, {"eval/greedy_accuracy", 0.25 * step}, {"eval/tokens", 30 - step}});
  for (int i = 0; i < 40; ++i) run.samples.push_back({{"update", i}, {"prompt", "1<2="}, {"reply", "reply " + std::to_string(i) + " & more"}, {"reward", 1}});
  return run;
}

TEST(ReportLanguage, CurvesAccuracyOverLengthAndReplies) {
  const std::string page = report_html({.title = "t", .evaluation = nullptr, .runs = {run_of("one")}});
  for (const char* title : {"Accuracy on validation problems", "Accuracy over length", "Reply length", "Reward in training", "Entropy", "Clipped tokens", "Mismatch of sampler"})
    EXPECT_EQ(count(page, std::string("<figcaption>") + title), 1u) << title;
  EXPECT_EQ(count(page, "<figure"), 7u);
  EXPECT_NE(page.find("greedy"), std::string::npos);
  EXPECT_NE(page.find("1&lt;2="), std::string::npos);
  for (const char* reply : {"reply 0 &amp; more", "reply 39 &amp; more"}) EXPECT_EQ(count(page, reply), 1u) << reply;
  EXPECT_EQ(count(page, "&amp; more"), 12u);
  EXPECT_EQ(page.find("<script"), std::string::npos);
}

TEST(ReportLanguage, RunsOfBothFamiliesShareAPage) {
  ReportRun controllers{.name = "two", .config = "", .metrics = {}};
  for (int step = 1; step <= 3; ++step) controllers.metrics.push_back({{"step", step}, {"train/return", step}});
  const std::string page = report_html({.title = "t", .evaluation = nullptr, .runs = {run_of("one"), controllers}});
  EXPECT_EQ(count(page, "<figure"), 8u);
  EXPECT_NE(page.find("train/return"), std::string::npos);
}

}  // namespace
}  // namespace trimtab
