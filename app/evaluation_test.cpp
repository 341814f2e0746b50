// evaluate() end to end over a small evaluator whose answers are known, and what is printed from it.
#include "app/evaluation.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "app/document.h"
#include "app/plot.h"
#include "app/report.h"
#include "app/subject.h"
#include "core/files.h"
#include "core/random.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Throughput of an episode is its world's level times the policy's factor; Jain's index is a constant of the
// policy. A learned policy multiplies by what its agent answers, so that training seeds differ.
class FakeEvaluator final : public Evaluator {
 public:
  explicit FakeEvaluator(uint64_t file_key) : file_key_(file_key) {}
  std::vector<MetricInfo> metrics() const override {
    return {{"throughput", "Mbit/s", true}, {"jain", "", true}, {"delay", "ms", false}};
  }
  std::vector<EvaluatedPolicy> policies(bool learned) const override {
    std::vector<EvaluatedPolicy> out = {
        {"fair", "baseline"}, {"f_0", "baseline"}, {"f_1", "baseline"}, {"f_2", "baseline"}};
    if (learned) out.insert(out.begin(), {"joint", "learned"});
    return out;
  }
  int64_t num_episodes() const override { return 6; }
  EpisodeResult run(const std::string& policy, const AgentFactory& agents, int64_t episode, uint64_t seed,
                    bool with_series) const override {
    Draws draws(seed, Stream::kTest, static_cast<uint32_t>(file_key_), static_cast<uint32_t>(episode));
    const double level = 40 + 20 * draws.uniform();
    double factor = policy == "fair"  ? 1.0
                    : policy == "f_0" ? 1.2
                    : policy == "f_1" ? 1.0
                    : policy == "f_2" ? 0.6
                                      : 0;
    double jain = policy == "fair" ? 0.7 : policy == "f_0" ? 0.5 : policy == "f_1" ? 0.7 : 0.9;
    if (policy == "joint") {
      float action = 0;
      agents().at("only")->decide(nullptr, nullptr, nullptr, 0, &action);
      factor = action;
      jain = 0.8;
    }
    const double delay = policy == "f_2" && episode == 0 ? std::nan("") : 3.0;
    EpisodeResult out{
        .metrics = {factor * level, jain, delay}, .samples = {level, factor * level}, .series = {}};
    if (with_series) out.series["throughput"] = std::vector<float>(1000, static_cast<float>(factor));
    return out;
  }
  std::vector<Frontier> frontiers() const override {
    return {{"pf family", "jain", "throughput", {"f_0", "f_1", "f_2"}}};
  }
  std::string reference() const override { return "fair"; }

 private:
  uint64_t file_key_;
};

TT_REGISTER(EvaluatorEntry, fake,
            {.name = "fake_for_test", .make = [](const Config&, const std::string& file) {
               return std::make_unique<FakeEvaluator>(std::hash<std::string>()(read_file(file)));
             }});

class ConstantAgent final : public AgentFunction {
 public:
  explicit ConstantAgent(float answer) : answer_(answer) {}
  void decide(const float*, const float*, const uint8_t*, int, float* action) override { *action = answer_; }

 private:
  float answer_;
};

AgentFactory answering(float answer) {
  return [answer] {
    std::map<std::string, std::unique_ptr<AgentFunction>> agents;
    agents.emplace("only", std::make_unique<ConstantAgent>(answer));
    return agents;
  };
}

class EvaluationTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("trimtab_evaluation_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
    std::ofstream(folder_ / "a.h5") << "first";
    std::ofstream(folder_ / "b.h5") << "second";
    request_.environment = "fake_for_test";
    request_.files = {(folder_ / "a.h5").string(), (folder_ / "b.h5").string()};
    request_.splits = {"held-out", "held-out"};
    request_.agents = {answering(1.0f), answering(1.1f), answering(1.2f)};
  }
  void TearDown() override { fs::remove_all(folder_); }

  static json find(const json& rows, const json& keys) {
    for (const json& row : rows) {
      bool same = true;
      for (const auto& [key, value] : keys.items()) same = same && row.at(key) == value;
      if (same) return row;
    }
    ADD_FAILURE() << "no row " << keys.dump();
    return {};
  }

  fs::path folder_;
  EvaluationRequest request_;
};

TEST_F(EvaluationTest, PairsPoliciesOnTheWorldsTheyShare) {
  const json e = evaluate(request_);
  const json row =
      find(e["paired"], {{"policy", "f_0"}, {"against", "fair"}, {"metric", "throughput"}, {"file", ""}});
  EXPECT_NEAR(row["ratio"]["mean"].get<double>(), 1.2, 1e-9);
  EXPECT_NEAR(row["ratio"]["low"].get<double>(), 1.2, 1e-9);
  EXPECT_EQ(row["ratio"]["n"], 12);
  const json joint =
      find(e["paired"],
           {{"policy", "joint"}, {"against", "fair"}, {"metric", "throughput"}, {"file", request_.files[0]}});
  EXPECT_NEAR(joint["ratio"]["mean"].get<double>(), 1.1, 1e-6);
  EXPECT_LT(joint["ratio"]["low"].get<double>(), 1.08);  // the seeds' spread is inside
  EXPECT_EQ(joint["ratio"]["n"], 6);
}

TEST_F(EvaluationTest, ReadsTheFrontierAtThePolicysFairness) {
  const json e = evaluate(request_);
  const json row = find(e["frontier"], {{"policy", "joint"}, {"file", ""}});
  EXPECT_NEAR(row["ratio"]["mean"].get<double>(), 1.1 / 0.8,
              1e-6);  // half way between f_1 (1.0) and f_2 (0.6)
  EXPECT_EQ(row["clamped"], 0.0);
}

TEST_F(EvaluationTest, CountsOnlyEpisodesInWhichAMetricIsDefined) {
  const json e = evaluate(request_);
  EXPECT_EQ(find(e["policies"], {{"name", "f_2"}, {"file", ""}})["metrics"]["delay"]["n"], 10);
  EXPECT_EQ(find(e["policies"], {{"name", "fair"}, {"file", ""}})["metrics"]["delay"]["n"], 12);
  EXPECT_EQ(find(e["policies"], {{"name", "fair"}, {"file", ""}})["metrics"]["throughput"]["unit"], "Mbit/s");
}

TEST_F(EvaluationTest, ThreadsDoNotChangeAnything) {
  request_.threads = 1;
  const std::string one = document_text(evaluate(request_));
  request_.threads = 4;
  EXPECT_EQ(one, document_text(evaluate(request_)));
}

TEST_F(EvaluationTest, DocumentReadsBack) {
  const json e = evaluate(request_);
  EXPECT_EQ(json::parse(document_text(e)), e);
  EXPECT_EQ(e["data"][0]["episodes"], 6);
  EXPECT_EQ(e["data"][0]["sha256"].get<std::string>().size(), 64u);
}

TEST_F(EvaluationTest, TableAndReportShowEveryPolicy) {
  const json e = evaluate(request_);
  const std::string table = evaluation_table(e);
  const std::string page = report_html({.title = "t", .evaluation = e, .runs = {}});
  for (const char* name : {"joint", "fair", "f_0", "f_1", "f_2"}) {
    EXPECT_NE(table.find(name), std::string::npos) << name;
    EXPECT_NE(page.find(name), std::string::npos) << name;
  }
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos);  // opens offline
  EXPECT_EQ(page.find("nan"), std::string::npos);
  EXPECT_NE(table.find("n = 12"), std::string::npos);
}

TEST_F(EvaluationTest, RefusesWhatTrainingSaw) {
  Subject subject;
  subject.agents = request_.agents;
  subject.manifest = {{"train.h5", hash_file(request_.files[0]), "train"},
                      {"val.h5", hash_file(request_.files[1]), "validation"}};
  EXPECT_THROW(check_held_out(subject, {request_.files[0]}, false), DataError);
  EXPECT_THROW(check_held_out(subject, {request_.files[0]}, true), DataError);
  EXPECT_THROW(check_held_out(subject, {request_.files[1]}, false), DataError);
  EXPECT_EQ(check_held_out(subject, {request_.files[1]}, true), std::vector<std::string>{"validation"});
  subject.manifest.clear();
  EXPECT_EQ(check_held_out(subject, {request_.files[0]}, false), std::vector<std::string>{"held-out"});
  EXPECT_THROW(check_held_out(subject, {(folder_ / "absent.h5").string()}, false), DataError);
}

TEST(Plot, TicksAreRoundAndInside) {
  EXPECT_EQ(round_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  const std::vector<double> ticks = round_ticks(0.412, 0.977, 5);
  EXPECT_NEAR(ticks.front(), 0.6, 1e-12);
  EXPECT_EQ(tick_text(0.6, 0.2), "0.6");
  EXPECT_EQ(tick_text(250000, 50000), "250k");
  EXPECT_EQ(tick_text(-1500, 500), "-1500");
}

TEST(Plot, EscapesNamesAndLeavesOutWhatIsNotFinite) {
  Curve curve{.label = "<b>",
              .x = {0, 1, 2},
              .y = {0, std::nan(""), 2},
              .x_low = {},
              .x_high = {},
              .y_low = {},
              .y_high = {}};
  const std::string figure =
      plot_figure({.title = "t", .note = "", .x_label = "x", .y_label = "y", .curves = {curve}});
  EXPECT_NE(figure.find("&lt;b&gt;"), std::string::npos);
  EXPECT_EQ(figure.find("<b>"), std::string::npos);
  EXPECT_EQ(figure.find("nan"), std::string::npos);
  curve.y = {std::nan(""), std::nan(""), std::nan("")};
  EXPECT_EQ(plot_figure({.title = "t", .note = "", .x_label = "x", .y_label = "y", .curves = {curve}}), "");
}

}  // namespace
}  // namespace trimtab
