// Requests by the names of their adapters, through store and pool, against each adapter's merged model.
#include "engine/multi_lora/adapter_server.h"

#include <gtest/gtest.h>

#include "core/test_support.h"
#include "engine/adapters/adapter_cases.h"
#include "engine/multi_lora/multi_lora_cases.h"

namespace trimtab {
namespace {

struct Served {
  TemporaryFolder folder;
  Draws draws{test_seed(), Stream::kTest, 611};
  TransformerConfig config = [] {
    TransformerConfig c;
    c.vocab_size = 40, c.hidden_size = 32, c.num_layers = 2, c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 16, c.intermediate_size = 48, c.max_positions = 128;
    return c;
  }();
  Transformer base{config, 3};
  Pool pool{2};

  explicit Served(int adapters) {
    stir_weights(base, draws);
    for (int i = 0; i < adapters; ++i) write_adapter(folder.path() / fmt::format("a{}", i), lora_of(4 + 4 * (i % 3)), config, draws);
  }
  void add(const std::string& name, int64_t rank) { write_adapter(folder.path() / name, lora_of(rank), config, draws); }
  AdapterStore store() { return {config, {kBaseName, ""}, adapters_in(folder.path()), 1 << 20}; }

  // Requests of random adapters; "" is the base model.
  std::vector<ServedRequest> requests(int count, int adapters) {
    std::vector<ServedRequest> out;
    for (int i = 0; i < count; ++i) {
      const int adapter = static_cast<int>(draws.below(static_cast<uint32_t>(adapters) + 1)) - 1;
      ServedRequest r{{.prompt = {}, .samples = 1 + draws.below(2), .key = static_cast<uint64_t>(i)}, adapter < 0 ? "" : fmt::format("a{}", adapter)};
      for (uint32_t n = 1 + draws.below(12); n > 0; --n) r.request.prompt.push_back(static_cast<int32_t>(draws.below(40)));
      out.push_back(std::move(r));
    }
    return out;
  }
};

const SamplingOptions kSampling{.max_tokens = 6, .temperature = 0.8};

TEST(AdapterServer, RepliesAreThoseOfEachAdaptersMergedModel) {
  Served s(6);
  AdapterStore store = s.store();
  for (const int64_t kilobytes : {96, 160, 2048}) {   // room for few adapters beside the caches, and for all
    AdapterPool adapters(store, {.bytes = kilobytes << 10, .page_bytes = 1024});
    AdapterServer server(s.base, adapters, {.max_sequences = 8}, s.pool);
    const std::vector<ServedRequest> requests = s.requests(40, 6);
    const std::vector<ServedReply> replies = server.serve(requests, kSampling, {}, 5, s.pool);
    ASSERT_EQ(replies.size(), requests.size());
    for (size_t r = 0; r < requests.size(); ++r) {
      ASSERT_EQ(replies[r].error, "");
      ASSERT_EQ(static_cast<int64_t>(replies[r].completions.size()), requests[r].request.samples);
      const Transformer merged = requests[r].adapter.empty() ? s.base : s.base.with_adapter(s.folder.path() / requests[r].adapter);
      const std::vector<Completion> expected = Generator(merged).generate({&requests[r].request, 1}, kSampling, {}, 5, s.pool);
      for (size_t i = 0; i < expected.size(); ++i) {
        const Completion& c = replies[r].completions[i];
        EXPECT_EQ(c.request, static_cast<int64_t>(r));
        EXPECT_EQ(c.sample, expected[i].sample);
        EXPECT_EQ(c.tokens, expected[i].tokens) << requests[r].adapter;
        for (size_t t = 0; t < c.logprobs.size(); ++t) EXPECT_NEAR(c.logprobs[t], expected[i].logprobs[t], 1e-3);
      }
    }
    EXPECT_LE(adapters.bytes_in_use(), adapters.bytes());
    EXPECT_EQ(server.statistics().requests, 40);
    EXPECT_GE(server.statistics().adapters_per_wave(), 1);
  }
}

TEST(AdapterServer, BadFilesFailTheirOwnRequestsAlone) {
  Served s(3);
  std::ofstream(s.folder.path() / "a1" / "adapter_model.safetensors") << "cut short";
  AdapterStore store = s.store();
  AdapterPool adapters(store, {.bytes = 256 << 10, .page_bytes = 1024});
  AdapterServer server(s.base, adapters, {.max_sequences = 4}, s.pool);
  const GenerationRequest prompt{.prompt = {1, 2, 3}};
  const auto replies = server.serve(std::vector<ServedRequest>{{prompt, "a1"}, {prompt, "a0"}, {prompt, "a1"}, {prompt, ""}, {prompt, "a2"}}, kSampling, {}, 1, s.pool);
  for (const size_t bad : {0, 2}) {
    EXPECT_TRUE(replies[bad].completions.empty());
    EXPECT_NE(replies[bad].error.find("a1"), std::string::npos) << replies[bad].error;
  }
  for (const size_t good : {1, 3, 4}) {
    EXPECT_EQ(replies[good].error, "");
    EXPECT_EQ(replies[good].completions.size(), 1);
  }
}

TEST(AdapterServer, AnAdapterLargerThanThePoolFailsItsOwnRequestsAlone) {
  Served s(2);
  s.add("large", 100);
  AdapterStore store = s.store();
  for (const int64_t together : {1, 4}) {
    AdapterPool adapters(store, {.bytes = 64 << 10, .page_bytes = 1024});
    AdapterServer server(s.base, adapters, {.max_sequences = together}, s.pool);
    const GenerationRequest prompt{.prompt = {1, 2, 3}};
    const auto replies = server.serve(std::vector<ServedRequest>{{prompt, "a0"}, {prompt, "large"}, {prompt, "a1"}, {prompt, "large"}, {prompt, ""}}, kSampling, {}, 1, s.pool);
    for (const size_t bad : {1, 3}) {
      EXPECT_TRUE(replies[bad].completions.empty());
      EXPECT_EQ(lacks(replies[bad].error, {"'large'", "rank 100", "more bytes"}), "");
    }
    for (const size_t good : {0, 2, 4}) EXPECT_TRUE(replies[good].error.empty() && replies[good].completions.size() == 1) << good;
  }
}

// Room for the adapters and caches (small ones) of one wave and one adapter of the next wave's two.
TEST(AdapterServer, WhatIsPrefetchedIsThereWhenItsTurnComes) {
  Served s(0);
  std::vector<ServedRequest> requests;
  for (int i = 0; i < 8; ++i) s.add(fmt::format("a{}", i), 100), requests.push_back({{.prompt = {1, 2, 3}, .key = static_cast<uint64_t>(i)}, fmt::format("a{}", i)});
  AdapterStore store = s.store();
  AdapterPool adapters(store, {.bytes = 500 << 10, .page_bytes = 1024});
  AdapterServer server(s.base, adapters, {.max_sequences = 2}, s.pool);
  for (const ServedReply& reply : server.serve(requests, kSampling, {}, 5, s.pool)) EXPECT_EQ(reply.error, "");
  EXPECT_EQ(server.statistics().waves, 4);
  EXPECT_EQ(adapters.statistics().paged_in(), 8);   // each once
}

TEST(AdapterServer, SaysWhatIsWrong) {
  Served s(2);
  AdapterStore store = s.store();
  AdapterPool adapters(store, {.bytes = 256 << 10, .page_bytes = 1024});
  const GenerationRequest prompt{.prompt = {1, 2, 3}}, many{.prompt = {1}, .samples = 300, .max_tokens = 100};
  AdapterServer server(s.base, adapters, {.max_sequences = 400}, s.pool);
  EXPECT_THROW(server.serve(std::vector<ServedRequest>{{prompt, "a0"}, {prompt, "nobody"}}, kSampling, {}, 1, s.pool), DataError);
  EXPECT_EQ(server.statistics().waves, 0);   // nothing was served before
  EXPECT_THROW(server.serve(std::vector<ServedRequest>{{many, "a0"}}, kSampling, {}, 1, s.pool), RunError);
  EXPECT_EQ(server.serve(std::vector<ServedRequest>{{prompt, "a0"}}, kSampling, {}, 1, s.pool)[0].completions.size(), 1);   // and goes on
  EXPECT_THROW(AdapterServer(s.base, adapters, {.token_budget = 4}, s.pool), ConfigError);
}

}  // namespace
}  // namespace trimtab
