// Damaged and hostile artefacts, bad inputs, counters: an error or the safe action, never a crash (run under ASan too).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/safetensors.h"
#include "policies/controllers/export.h"
#include "trimtab/runtime.h"

namespace trimtab {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class HostileTest : public testing::Test {
 protected:
  AgentSpec spec_{"prb", {{{"load", "1", 0, 1}}, {{"snr", "dB", -10, 40}, {"rate", "Mbit/s", 0, 100}}, 4}, {HeadKind::kSimplex, 4}};
  ControllerOptions options_ = [] {
    ControllerOptions o;
    o.hidden = {4};
    return o;
  }();
  std::unique_ptr<Controller> policy_ = Controller::policy(spec_, options_, 1);
  std::string bytes_ = artefact_bytes({{spec_, policy_.get(), "share of the PRBs", 500, {}}}, {.environment = "test", .config = "a: \"é\"\n", .training_data_hash = "", .glue = {}});
  tt_controller* controller_ = nullptr;
  std::string why_;

  // From now on the file of an agent with another head that attends with 2 heads over rows of 4.
  void attend(HeadKind kind, int picks = 2) {
    spec_.head = {.kind = kind, .size = 4, .picks = picks};
    options_.hidden = {4, 3};
    options_.attention = 2;
    policy_ = Controller::policy(spec_, options_, 1);
    bytes_ = artefact_bytes({{spec_, policy_.get(), "what it means", 500, {}}}, {.environment = "test", .config = "", .training_data_hash = "", .glue = {}});
  }

  tt_status open(const std::string& bytes, tt_open_options options = TT_OPEN_OPTIONS_INIT) {
    tt_close(controller_);
    char why[256] = "";
    // An exact-size copy on the heap, so that a read beyond the end is seen by AddressSanitizer.
    const std::vector<char> exact(bytes.begin(), bytes.end());
    const tt_status status = tt_open_memory(exact.data(), exact.size(), &options, &controller_, why, sizeof why);
    why_ = why;
    EXPECT_EQ(controller_ == nullptr, status != TT_OK);
    return status;
  }
  void TearDown() override { tt_close(controller_); }

  tt_counters counters() const {
    tt_counters c{};
    c.struct_size = sizeof c;
    EXPECT_EQ(tt_get_counters(controller_, &c), TT_OK);
    return c;
  }
  // The same file with another spec and a right checksum.
  std::string with_spec(const std::string& from, const std::string& to) {
    TensorFile file = parse_safetensors({reinterpret_cast<const uint8_t*>(bytes_.data()), bytes_.size()}, "artefact");
    std::string& spec = file.metadata["trimtab.controller"];
    const size_t at = spec.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    spec.replace(at, from.size(), to);
    return sealed(file);
  }
  static std::string sealed(TensorFile& file) {
    const std::string zeros(16, '0');
    file.metadata["trimtab.checksum"] = zeros;
    std::string bytes = serialise_safetensors(file);
    uint64_t hash = 0xcbf29ce484222325;
    for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
    return bytes.replace(bytes.find(":\"" + zeros + "\"") + 2, 16, fmt::format("{:016x}", hash));
  }
};

TEST_F(HostileTest, EveryTruncationIsRefused) {
  ASSERT_EQ(open(bytes_), TT_OK) << why_;
  for (size_t size = 0; size < bytes_.size(); ++size) ASSERT_EQ(open(bytes_.substr(0, size)), TT_BAD_FILE) << size;
  EXPECT_EQ(open(bytes_ + "x"), TT_BAD_FILE);
}

TEST_F(HostileTest, EveryBitFlipIsRefused) {
  for (size_t at = 0; at < bytes_.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = bytes_;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      ASSERT_EQ(open(damaged), TT_BAD_FILE) << "byte " << at << " bit " << bit;
      ASSERT_FALSE(why_.empty());
    }
  }
}

TEST_F(HostileTest, WellSealedNonsenseIsRefused) {
  EXPECT_EQ(open(with_spec("\"schema\":1", "\"schema\":2")), TT_VERSION_MISMATCH);
  EXPECT_EQ(open(with_spec("\"abi\":1", "\"abi\":7")), TT_VERSION_MISMATCH);
  EXPECT_EQ(open(with_spec("\"op\":\"tanh\"", "\"op\":\"conv\"")), TT_VERSION_MISMATCH);
  EXPECT_EQ(open(with_spec("\"op\":\"softmax\"", "\"op\":\"argmax\"")), TT_BAD_FILE);   // shares are not an index
  EXPECT_EQ(open(with_spec("{\"op\":\"softmax\"}", "{\"op\":\"residual\",\"feature\":9,\"coefficient\":1}")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"out\":4", "\"out\":5")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"out\":4", "\"out\":4000000000")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"max_items\":4", "\"max_items\":1025")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"count\":16", "\"count\":15")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"count\":16", "\"count\":17")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"fallback\":\"uniform\"", "\"fallback\":[1,0]")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"agents\":[", "\"agents\":[1,")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"agents\":[", "\"agents\":[" + std::string(500, '['))), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("prb.layer0.bias", "prb.layer9.bias")), TT_BAD_FILE);
  TensorFile file = parse_safetensors({reinterpret_cast<const uint8_t*>(bytes_.data()), bytes_.size()}, "artefact");
  file.tensors.at("prb.self_test.action").bytes[3] ^= 1;   // an answer nobody gave
  EXPECT_EQ(open(sealed(file)), TT_SELF_TEST_FAILED);
}

TEST_F(HostileTest, WellSealedNonsenseAboutAttentionIsRefused) {
  attend(HeadKind::kSubset);
  ASSERT_EQ(open(bytes_), TT_OK) << why_;
  for (const char* heads : {"0", "-2", "3", "8", "1.5", "4000000000", "\"2\"", "null"}) {
    EXPECT_EQ(open(with_spec("\"heads\":2", std::string("\"heads\":") + heads)), TT_BAD_FILE) << heads;
    EXPECT_NE(why_.find("heads"), std::string::npos) << why_;
  }
  EXPECT_EQ(open(with_spec("\"heads\":2,", "")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"heads\":2", "\"heads\":1")), TT_SELF_TEST_FAILED);   // possible, and not what was exported
  for (const char* part : {"query", "key", "value", "out"}) {
    const std::string name = std::string("prb.layer0.attention.") + part;
    EXPECT_EQ(open(with_spec(name, "prb.layer0.attention.none")), TT_BAD_FILE) << part;
    EXPECT_EQ(open(with_spec(name, "prb.layer1.rows")), TT_BAD_FILE) << "4 x 3 is not square";
    EXPECT_EQ(open(with_spec(name, "prb.layer0.bias")), TT_BAD_FILE) << "one row";
    EXPECT_NE(why_.find("shape"), std::string::npos) << why_;
    TensorFile file = parse_safetensors({reinterpret_cast<const uint8_t*>(bytes_.data()), bytes_.size()}, "artefact");
    std::fill_n(file.tensors.at(name).bytes.begin(), 4, uint8_t{0xff});   // not a number
    EXPECT_EQ(open(sealed(file)), TT_BAD_FILE);
  }
  // After the rows have become one.
  EXPECT_EQ(open(with_spec("\"op\":\"linear\",\"out\":4,\"to\":\"rows\",\"rows\":\"prb.layer0.rows\"", "\"op\":\"linear\",\"out\":4,\"to\":\"decision\"")),
            TT_BAD_FILE);
}

TEST_F(HostileTest, WellSealedNonsenseAboutSubsetsAndOrdersIsRefused) {
  attend(HeadKind::kSubset);
  EXPECT_EQ(open(with_spec("\"kind\":\"subset\"", "\"kind\":\"partition\"")), TT_VERSION_MISMATCH);
  EXPECT_EQ(open(with_spec("\"kind\":\"subset\"", "\"kind\":\"order\"")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"fallback\":\"none\"", "\"fallback\":\"uniform\"")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"fallback\":\"none\"", "\"fallback\":[0,0,0,0]")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("{\"op\":\"sigmoid\"}", "{\"op\":\"order\",\"picks\":1}")), TT_BAD_FILE);
  attend(HeadKind::kOrder);
  ASSERT_EQ(open(bytes_), TT_OK) << why_;
  for (const char* picks : {"0", "-1", "1", "3", "1025", "4000000000", "1.5", "\"2\""})
    EXPECT_EQ(open(with_spec("\"picks\":2", std::string("\"picks\":") + picks)), TT_BAD_FILE) << picks;
  EXPECT_EQ(open(with_spec("\"size\":2", "\"size\":3")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec(",\"picks\":2", "")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("{\"op\":\"order\",\"picks\":2}", "{\"op\":\"argmax\"}")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("{\"op\":\"order\",\"picks\":2}", "{\"op\":\"order\",\"picks\":2},{\"op\":\"order\",\"picks\":2}")), TT_BAD_FILE);
  EXPECT_EQ(open(with_spec("\"kind\":\"order\"", "\"kind\":\"gaussian\"")), TT_BAD_FILE);
}

TEST_F(HostileTest, EveryTruncationOfAnAttendingFileIsRefused) {
  attend(HeadKind::kOrder);
  for (size_t size = 0; size < bytes_.size(); size += 3) ASSERT_EQ(open(bytes_.substr(0, size)), TT_BAD_FILE) << size;
}

TEST_F(HostileTest, TheSafeSubsetAndOrderTakeNothing) {
  const float context[1] = {0.5f}, bad_context[1] = {kNaN}, items[10] = {10, 5, 30, 5, 1, 1, 10, 5, 3, 3};
  const uint8_t nobody[4] = {}, one[4] = {0, 0, 1, 0};
  float action[8];
  tt_agent_info info{};
  info.struct_size = sizeof info;
  const auto is_nothing = [&](int width, float nothing) {
    return std::all_of(action, action + width, [&](float a) { return a == nothing; }) && action[width] == 7;
  };
  const auto reset = [&] { std::fill_n(action, 8, 7.0f); };
  for (const HeadKind kind : {HeadKind::kSubset, HeadKind::kOrder}) {
    attend(kind, 3);
    tt_open_options options = TT_OPEN_OPTIONS_INIT;
    options.max_items = 4;
    ASSERT_EQ(open(bytes_, options), TT_OK) << why_;
    const bool order = kind == HeadKind::kOrder;
    const float nothing = order ? -1.0f : 0.0f;
    ASSERT_EQ(tt_get_agent_info(controller_, 0, &info), TT_OK);
    EXPECT_EQ(info.action, order ? TT_ORDER : TT_SUBSET);
    EXPECT_EQ(info.action_size, order ? 3 : 4);
    reset();
    EXPECT_EQ(tt_decide(controller_, 0, bad_context, items, nullptr, 4, action), TT_BAD_INPUT);
    EXPECT_TRUE(is_nothing(order ? 3 : 4, nothing));
    reset();
    EXPECT_EQ(tt_decide(controller_, 0, context, items, nullptr, 5, action), TT_TOO_MANY_ITEMS);
    EXPECT_TRUE(is_nothing(order ? 3 : 5, nothing));
    reset();
    EXPECT_EQ(tt_decide(controller_, 0, context, items, nobody, 4, action), TT_NO_ITEMS);
    EXPECT_TRUE(is_nothing(order ? 3 : 4, nothing));
    reset();
    EXPECT_EQ(tt_safe_action(controller_, 0, nullptr, 2, action), TT_OK);
    EXPECT_TRUE(is_nothing(order ? 3 : 2, nothing));
    reset();
    EXPECT_EQ(tt_decide(controller_, 0, context, items, one, 4, action), TT_OK);
    if (order) EXPECT_TRUE(action[0] == 2 && action[1] == -1 && action[2] == -1 && action[3] == 7);
    else EXPECT_TRUE(action[0] == 0 && action[1] == 0 && action[2] > 0 && action[2] < 1 && action[3] == 0);
  }
}

// Whatever the network's numbers become, the answer is finite or the safe one, and the status says which.
TEST_F(HostileTest, OverflowInAttentionIsTheSafeAction) {
  for (const HeadKind kind : {HeadKind::kSubset, HeadKind::kOrder, HeadKind::kChoice, HeadKind::kSimplex}) {
    for (const char* activation : {"tanh", "relu"}) {
      options_.activation = activation;
      options_.normalise_observations = false;
      attend(kind, 3);
      TensorFile file = parse_safetensors({reinterpret_cast<const uint8_t*>(bytes_.data()), bytes_.size()}, "artefact");
      for (const char* part : {"query", "key"}) {
        const std::vector<float> huge(16, 3e38f);
        file.tensors.at(std::string("prb.layer0.attention.") + part) = Tensor::f32({4, 4}, huge);
      }
      tt_open_options options = TT_OPEN_OPTIONS_INIT;
      options.run_self_test = 0;
      ASSERT_EQ(open(sealed(file), options), TT_OK) << why_;
      const float context[1] = {0.5f}, items[8] = {10, 5, 30, 5, 1, 1, -10, 5};
      float action[4] = {};
      const tt_status status = tt_decide(controller_, 0, context, items, nullptr, 4, action);
      EXPECT_EQ(status, TT_BAD_INPUT) << activation;
      EXPECT_EQ(action[0], kind == HeadKind::kOrder ? -1 : kind == HeadKind::kSimplex ? 0.25f : 0.0f);
    }
  }
}

// Any number of items up to the most, of any values.
TEST_F(HostileTest, AttendsOverAsManyItemsAsThereMayBe) {
  attend(HeadKind::kOrder, 4);
  tt_open_options options = TT_OPEN_OPTIONS_INIT;
  options.max_items = TT_MAX_ITEMS;
  ASSERT_EQ(open(bytes_, options), TT_OK) << why_;
  const float context[1] = {0.5f};
  for (const int count : {1, 15, 16, 17, 1023, int{TT_MAX_ITEMS}}) {
    // An exact-size copy on the heap, as above.
    std::vector<float> items, action(4);
    for (int k = 0; k < 2 * count; ++k) items.push_back(static_cast<float>(k * 37 % 101) - 10);
    items.shrink_to_fit();
    ASSERT_EQ(tt_decide(controller_, 0, context, items.data(), nullptr, count, action.data()), TT_OK);
    for (int j = 0; j < 4; ++j) EXPECT_TRUE(j < count ? action[j] >= 0 && action[j] < static_cast<float>(count) : action[j] == -1);
  }
}

TEST_F(HostileTest, CallersOfAnotherAbiAreRefused) {
  tt_open_options options = TT_OPEN_OPTIONS_INIT;
  options.abi_version = 2;
  EXPECT_EQ(open(bytes_, options), TT_VERSION_MISMATCH);
  options = TT_OPEN_OPTIONS_INIT;
  options.struct_size -= 8;
  EXPECT_EQ(open(bytes_, options), TT_VERSION_MISMATCH);
  options = TT_OPEN_OPTIONS_INIT;
  options.max_items = TT_MAX_ITEMS + 1;
  EXPECT_EQ(open(bytes_, options), TT_BAD_ARGUMENT);
  EXPECT_EQ(tt_open("no/such/file", nullptr, &controller_, nullptr, 0), TT_IO_ERROR);
}

TEST_F(HostileTest, BadInputsGiveTheSafeActionAndAreCounted) {
  ASSERT_EQ(open(bytes_), TT_OK) << why_;
  float context[1] = {0.5f}, items[10] = {10, 5, 10, 5, kNaN, kNaN, 10, 5}, action[5];
  const uint8_t without_third[5] = {1, 1, 0, 1, 1};
  EXPECT_EQ(tt_decide(controller_, 0, context, items, without_third, 4, action), TT_OK);   // absent items are not looked at
  EXPECT_EQ(counters().fallbacks, 0u);
  EXPECT_EQ(tt_decide(controller_, 0, context, items, nullptr, 4, action), TT_BAD_INPUT);
  for (int i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(action[i], 0.25f);
  EXPECT_EQ(tt_decide(controller_, 0, context, items, without_third, 5, action), TT_TOO_MANY_ITEMS);
  EXPECT_FLOAT_EQ(action[0], 0.25f);
  EXPECT_FLOAT_EQ(action[2], 0);
  const uint8_t nobody[4] = {};
  EXPECT_EQ(tt_decide(controller_, 0, context, items, nobody, 4, action), TT_NO_ITEMS);
  EXPECT_FLOAT_EQ(action[1], 0);
  context[0] = 3;   // outside [0, 1]: answered, and counted
  EXPECT_EQ(tt_decide(controller_, 0, context, items, without_third, 4, action), TT_OK);
  EXPECT_EQ(counters().out_of_range, 1u);
  EXPECT_EQ(counters().calls, 5u);
  EXPECT_EQ(counters().fallbacks, 3u);
  EXPECT_EQ(counters().bad_inputs, 2u);
  EXPECT_EQ(tt_decide(controller_, 1, context, items, nullptr, 4, action), TT_BAD_ARGUMENT);
  EXPECT_EQ(tt_decide(controller_, 0, nullptr, items, nullptr, 4, action), TT_BAD_ARGUMENT);
}

TEST_F(HostileTest, AMissedDeadlineGivesTheSafeAction) {
  tt_open_options options = TT_OPEN_OPTIONS_INIT;
  options.deadline_us = 1e-6;   // nothing is that fast
  ASSERT_EQ(open(bytes_, options), TT_OK) << why_;
  const float context[1] = {0.5f}, items[8] = {10, 5, 30, 5, 1, 1, 10, 5};
  float action[4];
  EXPECT_EQ(tt_decide(controller_, 0, context, items, nullptr, 4, action), TT_DEADLINE_MISSED);
  for (const float share : action) EXPECT_FLOAT_EQ(share, 0.25f);
  EXPECT_EQ(counters().deadline_misses, 1u);
}

}  // namespace
}  // namespace trimtab
