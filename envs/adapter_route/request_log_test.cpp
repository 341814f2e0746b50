// Logs of requests: stretches of them are episodes, and what is wrong in them is told by line.
#include "envs/adapter_route/request_log.h"

#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

class RequestLogTest : public testing::Test {
 protected:
  std::string log(const std::string& lines) {
    write_file_atomically(file, lines);
    return file.string();
  }
  void expect_refused(const std::string& lines, const std::string& place, const std::string& why, int64_t requests = 1) {
    try {
      RequestLog(log(lines), requests, *source);
      ADD_FAILURE() << "accepted: " << lines;
    } catch (const DataError& e) {
      EXPECT_NE(std::string(e.what()).find(place), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find(why), std::string::npos) << e.what();
    }
  }
  TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "requests.jsonl";
  const std::unique_ptr<QualitySource> source = synthetic_qualities({.adapters = 3, .tasks = 4, .embedding = 2});
};

const std::string kGood = R"({"time_s": 1, "task": "2", "input_tokens": 5, "output_tokens": 7})" "\n";

TEST_F(RequestLogTest, EpisodesAreStretchesThatBeginAtZero) {
  std::string lines;
  for (int i = 0; i < 40; ++i) lines += fmt::format(R"({{"time_s": {}, "task": "{}", "input_tokens": {}, "output_tokens": {}, "user": "x"}})" "\n\n", 10 + 0.5 * i, i % 4, i + 1, 2 * i + 1);
  const RequestLog requests(log(lines), 8, *source);
  std::set<int32_t> starts;
  for (uint64_t episode = 0; episode < 200; ++episode) {
    std::vector<Request> out, again;
    requests.episode({test_seed(), episode}, out), requests.episode({test_seed(), episode}, again);
    ASSERT_EQ(out.size(), 8u);
    const int32_t first = out[0].input_tokens - 1;
    starts.insert(first);
    for (int32_t i = 0; i < 8; ++i) {
      EXPECT_DOUBLE_EQ(out[i].arrival_ms, 500.0 * i);
      EXPECT_EQ(out[i].task, (first + i) % 4);
      EXPECT_EQ(out[i].input_tokens, first + i + 1);
      EXPECT_EQ(out[i].output_tokens, 2 * (first + i) + 1);
      EXPECT_EQ(out[i].input_tokens, again[i].input_tokens);
    }
  }
  EXPECT_EQ(*starts.begin(), 0);
  EXPECT_EQ(*starts.rbegin(), 32);
  EXPECT_GT(starts.size(), 20u);
}

TEST_F(RequestLogTest, SaysWhatIsWrongAndWhere) {
  expect_refused("nonsense\n", "requests.jsonl:1", "not a JSON object");
  expect_refused(kGood + R"({"task": "2", "input_tokens": 5, "output_tokens": 7})", "requests.jsonl:2", "'time_s' is missing");
  expect_refused(R"({"time_s": -1, "task": "2", "input_tokens": 5, "output_tokens": 7})", "requests.jsonl:1", "seconds from 0 on");
  expect_refused(R"({"time_s": "1", "task": "2", "input_tokens": 5, "output_tokens": 7})", "requests.jsonl:1", "seconds from 0 on");
  expect_refused(R"({"time_s": 1, "task": "nobody", "input_tokens": 5, "output_tokens": 7})", "requests.jsonl:1", "nobody");
  expect_refused(R"({"time_s": 1, "task": 2, "input_tokens": 5, "output_tokens": 7})", "requests.jsonl:1", "no task 2");
  expect_refused(R"({"time_s": 1, "task": "2", "input_tokens": 0, "output_tokens": 7})", "requests.jsonl:1", "'input_tokens'");
  expect_refused(R"({"time_s": 1, "task": "2", "input_tokens": 5, "output_tokens": 7.5})", "requests.jsonl:1", "'output_tokens'");
  expect_refused(kGood + R"({"time_s": 0.5, "task": "2", "input_tokens": 5, "output_tokens": 7})", "requests.jsonl:2", "sort the log");
  expect_refused(kGood, "requests.jsonl", "give a longer log", 2);
  expect_refused("", "requests.jsonl", "0 requests");
}

}  // namespace
}  // namespace trimtab
