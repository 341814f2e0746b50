// Adapters on disk and in host memory: what is read, what is kept, what is refused.
#include "engine/adapters/adapter_store.h"

#include <gtest/gtest.h>

#include <thread>

#include "engine/adapters/adapter_cases.h"

namespace trimtab {
namespace {

const std::vector<std::string> kAll = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

class Folders {
 public:
  std::filesystem::path add(const std::string& name, const LoraConfig& lora, const std::string& dtype = "F32") {
    const std::filesystem::path folder = root_.path() / name;
    std::filesystem::remove_all(folder);
    write_adapter(folder, lora, base_, draws_, dtype);
    return folder;
  }
  AdapterStore store(int64_t host_bytes = 1 << 20, const std::string& base_model = kBaseName) const {
    return {base_, {base_model, ""}, adapters_in(root_.path()), host_bytes};
  }
  const std::filesystem::path& root() const { return root_.path(); }
  const TransformerConfig& base() const { return base_; }

 private:
  const TemporaryFolder root_;
  const TransformerConfig base_ = tiny("llama");
  Draws draws_{test_seed(), Stream::kTest, 41};
};

std::string name_of_layer(const HostMatrices& m) {
  return fmt::format("model.layers.{}.{}.{}", m.layer, m.target < LoraTarget::kGate ? "self_attn" : "mlp", kAll[static_cast<int>(m.target)]);
}

TEST(AdapterStore, ReadsWhatTheFolderHolds) {
  for (const char* dtype : {"F32", "F16", "BF16"}) {
    Folders f;
    const auto folder = f.add("one", lora_of(3, kAll), dtype);
    const auto adapter = f.store().read("one").adapter;
    const TensorFile file = read_safetensors(folder / "adapter_model.safetensors");
    EXPECT_EQ(adapter->name, "one");
    EXPECT_EQ(adapter->config.scale(), lora_of(3).scale());
    ASSERT_EQ(adapter->matrices.size(), 14u);
    int64_t bytes = 0;
    for (const HostMatrices& m : adapter->matrices) {
      const std::string layer = "base_model.model." + name_of_layer(m);
      EXPECT_EQ(m.a.bytes, file.at(layer + ".lora_A.weight").bytes) << layer;
      EXPECT_EQ(m.b.bytes, file.at(layer + ".lora_B.weight").bytes) << layer;
      EXPECT_EQ((std::vector<int64_t>{3, m.in}), m.a.shape);
      EXPECT_EQ((std::vector<int64_t>{m.out, 3}), m.b.shape);
      bytes += static_cast<int64_t>(m.a.bytes.size() + m.b.bytes.size());
    }
    EXPECT_EQ(adapter->bytes, bytes);
  }
}

TEST(AdapterStore, TargetsCanBeSingleLayers) {
  Folders f;
  f.add("one", lora_of(2, {"layers.1.self_attn.v_proj", "mlp.gate_proj"}));
  const auto adapter = f.store().read("one").adapter;
  std::vector<std::string> layers;
  for (const HostMatrices& m : adapter->matrices) layers.push_back(name_of_layer(m));
  EXPECT_EQ(layers, (std::vector<std::string>{"model.layers.0.mlp.gate_proj", "model.layers.1.self_attn.v_proj", "model.layers.1.mlp.gate_proj"}));
}

TEST(AdapterStore, HostMemoryKeepsTheLastReadWithinItsBudget) {
  Folders f;
  for (const char* name : {"a", "b", "c"}) f.add(name, lora_of(3));
  f.add("large", lora_of(30, kAll));
  const int64_t one = f.store().read("a").adapter->bytes;
  AdapterStore store = f.store(2 * one + 1);
  const auto from = [&](const char* name) { return store.read(name).medium; };
  EXPECT_EQ(from("a"), AdapterMedium::kDisk);
  EXPECT_EQ(from("b"), AdapterMedium::kDisk);
  EXPECT_EQ(from("a"), AdapterMedium::kHost);
  EXPECT_EQ(from("c"), AdapterMedium::kDisk);   // b leaves
  EXPECT_EQ(store.in_host_memory(), (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(store.host_bytes(), 2 * one);
  EXPECT_EQ(from("large"), AdapterMedium::kDisk);   // is more than the budget: nobody leaves for it
  EXPECT_EQ(store.in_host_memory(), (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(from("b"), AdapterMedium::kDisk);
  EXPECT_EQ(store.in_host_memory(), (std::vector<std::string>{"b", "c"}));
  AdapterStore none = f.store(0);
  EXPECT_EQ(none.read("a").medium, AdapterMedium::kDisk);
  EXPECT_EQ(none.read("a").medium, AdapterMedium::kDisk);
  EXPECT_EQ(none.host_bytes(), 0);
  EXPECT_EQ(lacks(said<ConfigError>([&] { f.store(-1); }), {"-1", "host memory"}), "");
}

TEST(AdapterStore, EveryBadFolderIsRefusedByFilePlaceAndCure) {
  Folders f;
  f.add("good", lora_of(3));
  for (const BadFolder& bad : bad_folders()) {
    SCOPED_TRACE(bad.what);
    f.add("bad", lora_of(3));
    AdapterStore store = f.store();
    store.read("good");
    bad.spoil(f.root() / "bad");
    EXPECT_EQ(lacks(said<DataError>([&] { store.read("bad"); }), bad.words), "");
    EXPECT_EQ(store.in_host_memory(), std::vector<std::string>{"good"});
    EXPECT_EQ(store.read("good").medium, AdapterMedium::kHost);
    f.add("bad", lora_of(3));   // what failed is not remembered
    EXPECT_EQ(store.read("bad").medium, AdapterMedium::kDisk);
  }
}

TEST(AdapterStore, ShapesAreCheckedAgainstTheBaseWhateverItsName) {
  Folders f;
  f.add("one", lora_of(3));
  TransformerConfig wider = f.base(), deeper = f.base();
  wider.intermediate_size = 40, deeper.num_layers = 3;
  for (const std::string& name : {std::string(kBaseName), std::string()}) {
    EXPECT_EQ(lacks(said<DataError>([&] { AdapterStore(wider, {name, ""}, adapters_in(f.root()), 0).read("one"); }), {"down_proj", "shape", "another model"}), "");
    EXPECT_EQ(lacks(said<DataError>([&] { AdapterStore(deeper, {name, ""}, adapters_in(f.root()), 0).read("one"); }), {"layers.2", "missing"}), "");
  }
}

TEST(AdapterStore, NamesOfBaseModelsAreComparedWhereBothAreOnTheHub) {
  Folders f;
  f.add("one", lora_of(3));
  LoraConfig nameless = lora_of(3);
  nameless.base_model = "";
  f.add("nameless", nameless);
  const auto refused = [&](const std::string& base_model, const std::string& name) { return said<DataError>([&] { f.store(0, base_model).read(name); }) != ""; };
  EXPECT_FALSE(refused(kBaseName, "one"));
  EXPECT_FALSE(refused(std::string(kBaseName) + "/", "one"));
  EXPECT_FALSE(refused("", "one"));
  EXPECT_FALSE(refused("models/other", "nameless"));
  EXPECT_TRUE(refused("models/other", "one"));
  EXPECT_TRUE(refused("/cache/models--models--other/snapshots/1", "one"));
  EXPECT_FALSE(refused("/cache/models--models--base/snapshots/1", "one"));
  for (const char* folder : {"/data/other", "../other", "runs/a/b"}) EXPECT_FALSE(refused(folder, "one")) << folder;   // may be the same model
  std::filesystem::create_directories(f.root() / "models--models--other" / "snapshots");
  std::filesystem::create_directory_symlink(f.root() / "models--models--other" / "snapshots", f.root() / "link");
  EXPECT_TRUE(refused((f.root() / "link").string(), "one"));
}

TEST(AdapterStore, TheFingerprintOfTheBaseDecidesWhereThereIsOne) {
  Folders f;
  const auto file = f.add("one", lora_of(3)) / "adapter_model.safetensors";
  TensorFile contents = read_safetensors(file);
  contents.metadata[kBaseFingerprint] = "beef";
  write_safetensors(file, contents);
  const auto message = [&](const AdapterBase& base) { return said<DataError>([&] { AdapterStore(f.base(), base, adapters_in(f.root()), 0).read("one"); }); };
  EXPECT_EQ(message({kBaseName, "beef"}), "");
  EXPECT_EQ(message({"models/other", "beef"}), "");
  EXPECT_EQ(lacks(message({"/runs/other", "cafe"}), {file.string(), kBaseName, "beef", "/runs/other", "cafe", "train the adapter again"}), "");
  EXPECT_EQ(message({kBaseName, ""}), "");
  EXPECT_NE(message({"models/other", ""}), "");
}

TEST(AdapterStore, AShapeIsWhatIsReadLater) {
  Folders f;
  f.add("one", lora_of(3, kAll));
  AdapterStore store = f.store();
  const AdapterShape before = store.shape("one");
  EXPECT_TRUE(store.in_host_memory().empty());   // no tensor was read
  const auto adapter = store.read("one").adapter;
  std::filesystem::remove_all(f.root() / "one");
  const AdapterShape after = store.shape("one");   // of what host memory holds
  EXPECT_EQ(before.rank, 3);
  EXPECT_EQ(before.rank, after.rank);
  EXPECT_EQ(before.layers, after.layers);
  ASSERT_EQ(before.layers.size(), adapter->matrices.size());
  for (size_t i = 0; i < before.layers.size(); ++i) EXPECT_EQ(before.layers[i], std::make_pair(adapter->matrices[i].in, adapter->matrices[i].out));
}

TEST(AdapterStore, FoldersAreFoundOrNamed) {
  Folders f;
  EXPECT_EQ(lacks(said<DataError>([&] { adapters_in(f.root()); }), {f.root().string(), "no adapters"}), "");
  EXPECT_EQ(lacks(said<DataError>([&] { adapters_in(f.root() / "nowhere"); }), {"nowhere"}), "");
  const auto a = f.add("a", lora_of(3)), b = f.add("b", lora_of(3));
  std::filesystem::create_directory(f.root() / "other");
  const auto run = f.root() / "run";   // of training: its adapter lies in it
  std::filesystem::create_directory(run);
  std::filesystem::copy(b, run / "adapter");
  EXPECT_EQ(adapters_in(f.root()), (AdapterFolders{{"a", a}, {"b", b}, {"run", run / "adapter"}}));
  EXPECT_EQ(adapters_named({"x=" + a.string(), "y=p=q", "z=" + run.string()}), (AdapterFolders{{"x", a}, {"y", "p=q"}, {"z", run / "adapter"}}));
  for (const char* wrong : {"x", "=x", "x="}) EXPECT_EQ(lacks(said<ConfigError>([&] { adapters_named({wrong}); }), {wrong, "NAME=PATH"}), "");
  EXPECT_EQ(lacks(said<ConfigError>([&] { adapters_named({"x=a", "x=b"}); }), {"'x'", "twice"}), "");
  EXPECT_EQ(lacks(said<DataError>([&] { f.store().read("c"); }), {"'c'", "a, b, run"}), "");
}

TEST(AdapterStore, ThreadsReadSideBySide) {
  Folders f;
  for (const char* name : {"a", "b", "c"}) f.add(name, lora_of(3));
  AdapterStore store = f.store(2 * f.store().read("a").adapter->bytes);
  const auto fresh = f.store().read("b").adapter;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 30; ++i) EXPECT_EQ(store.read(std::string(1, static_cast<char>('a' + (i + t) % 3))).adapter->matrices.size(), 4u);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(store.host_bytes(), 2 * fresh->bytes);
  EXPECT_EQ(store.read("b").adapter->matrices[1].b.bytes, fresh->matrices[1].b.bytes);
}

}  // namespace
}  // namespace trimtab
