// The program under mpirun: two processes make the run of one, ranks that do not belong together are refused, and one that dies or hangs
// does not leave the others waiting for ever.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/checkpoint.h"
#include "core/files.h"
#include "core/launch.h"
#include "core/registry.h"
#include "core/test_command.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

const std::string kProgram = TRIMTAB_BINARY_DIR "/trimtab";
// Containers run tests as root, and machines may have fewer cores than the test has ranks; a loaded machine is slow.
const std::string kMpirun = "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 mpirun --oversubscribe --bind-to none ";

class Mpirun : public testing::Test {
 protected:
  void SetUp() override {
    if (Registry<RanksEntry>::instance().names().empty()) GTEST_SKIP() << "this build trains in one process (TRIMTAB_MPI is off)";
    if (std::system("command -v mpirun > /dev/null") != 0) GTEST_SKIP() << "there is no mpirun here";
    if (!fs::exists(kProgram)) GTEST_SKIP() << kProgram << " is not built";
    write("run.yaml", yaml("3e-4"));
  }
  static std::string yaml(const std::string& lr) {
    return "run: {name: ranks, threads: 1}\nenv: {type: cartpole}\n"
           "policy: {cart: {type: mlp, hidden: [32, 32]}, critic: {type: mlp, hidden: [32, 32]}}\n"
           "trainer: {preset: ppo, steps: 8192, num_envs: 16, horizon: 64, minibatch_size: 128, epochs: 2, lr: " + lr + "}\n"
           "eval: {every: 4096, episodes: 8}\ncheckpoint: {every: 1024, keep: 3}\n";
  }
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_.path() / name) << text; }
  std::string at(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string train(const std::string& out, const std::string& config = "run.yaml") const {
    return kProgram + " train " + at(config) + " --out " + at(out);
  }
  Printed mpirun(const std::string& words) const { return run_command(kMpirun + words + " 2>&1"); }
  std::string state(const std::string& out) const {
    const Checkpoint c = CheckpointFolder(folder_.path() / out / "checkpoints").load("latest");
    std::string all = serialise_safetensors(c.state) + c.counters.dump();
    for (const auto& [name, blob] : c.blobs) all += name + blob;
    return all;
  }
  TemporaryFolder folder_;
};

TEST_F(Mpirun, TwoProcessesMakeTheRunOfOne) {
  ASSERT_EQ(run_command(train("one") + " 2>&1").status, 0);
  const Printed two = mpirun("-np 2 " + train("two"));
  ASSERT_EQ(two.status, 0) << two.text;
  const Checkpoint a = CheckpointFolder(folder_.path() / "one" / "checkpoints").load("latest"), b = CheckpointFolder(folder_.path() / "two" / "checkpoints").load("latest");
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.blobs.size(), b.blobs.size());
  ASSERT_EQ(a.state.tensors.size(), b.state.tensors.size());
  // Rounding differs (minibatches are summed in other parts) and grows through the environment, so the run agrees, and not to the bit.
  EXPECT_TRUE(fs::exists(folder_.path() / "two" / "finished"));
  ASSERT_EQ(mpirun("-np 2 " + train("again")).status, 0);
  EXPECT_TRUE(state("two") == state("again"));
}

TEST_F(Mpirun, OtherSettingsAndOtherDataAreRefusedByName) {
  write("other.yaml", yaml("1e-3"));
  const Printed printed = mpirun("-np 1 " + train("run") + " : -np 1 " + train("run", "other.yaml"));
  EXPECT_NE(printed.status, 0);
  EXPECT_NE(printed.text.find("rank 1 has another configuration than rank 0"), std::string::npos) << printed.text;
  EXPECT_NE(printed.text.find("lr: 0.001"), std::string::npos) << printed.text;
  EXPECT_FALSE(fs::exists(folder_.path() / "run"));
}

TEST_F(Mpirun, MoreRanksThanShardsAreRefused) {
  const Printed printed = mpirun("-np 5 " + train("run"));
  EXPECT_NE(printed.status, 0);
  EXPECT_NE(printed.text.find("5 ranks cannot share 4 shards"), std::string::npos) << printed.text;
}

TEST_F(Mpirun, ALauncherThatConnectsNobodyIsNamed) {
  const Printed printed = run_command("TORCHELASTIC_RUN_ID=x RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 " + train("run") + " 2>&1");
  EXPECT_NE(printed.status, 0);
  EXPECT_NE(printed.text.find("torchrun started 2 processes, but MPI connects 1"), std::string::npos) << printed.text;
}

// A rank is stopped, or killed, once the run has a checkpoint.
class LostRank : public Mpirun {
 protected:
  // The process ids of the ranks, from the environment of the processes that run this test's configuration.
  std::vector<pid_t> ranks() const {
    std::vector<pid_t> out;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc")) {
      const std::string id = entry.path().filename().string();
      if (id.find_first_not_of("0123456789") != std::string::npos) continue;
      std::error_code gone;
      if (fs::read_symlink(entry.path() / "exe", gone) != kProgram) continue;
      std::ifstream file(entry.path() / "cmdline");
      const std::string line((std::istreambuf_iterator<char>(file)), {});
      if (line.find(at("run")) != std::string::npos) out.push_back(std::stoi(id));
    }
    std::sort(out.begin(), out.end());
    return out;
  }
  // Trains, calls `strike` with the ranks' process ids when a checkpoint is there; what the command printed.
  Printed struck(const std::string& environment, const std::function<void(const std::vector<pid_t>&)>& strike) {
    Printed printed;
    std::thread launcher([&] { printed = run_command(environment + kMpirun + "-np 2 " + train("run", "long.yaml") + " 2>&1"); });
    const auto start = std::chrono::steady_clock::now();
    while (!fs::exists(folder_.path() / "run/checkpoints/latest") && std::chrono::steady_clock::now() - start < std::chrono::seconds(120))
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::vector<pid_t> found = ranks();
    EXPECT_EQ(found.size(), 2u);
    if (!found.empty()) strike(found);
    launcher.join();
    return printed;
  }
  Printed lose(int signal, const std::string& environment) {
    return struck(environment, [&](const std::vector<pid_t>& found) { kill(lost_ = found.back(), signal); });
  }
  // mpirun, which started the rank.
  static pid_t parent_of(pid_t process) {
    std::ifstream file("/proc/" + std::to_string(process) + "/status");
    for (std::string line; std::getline(file, line);)
      if (line.starts_with("PPid:")) return std::stoi(line.substr(5));
    return 0;
  }
  void SetUp() override {
    Mpirun::SetUp();
    std::string text = yaml("3e-4");
    text.replace(text.find("8192"), 4, "400000");
    write("long.yaml", text);
  }
  pid_t lost_ = 0;
};

TEST_F(LostRank, ThatDiesEndsAllAndTheRunIsResumable) {
  const Printed printed = lose(SIGKILL, "");
  EXPECT_NE(printed.status, 0);
  EXPECT_TRUE(ranks().empty());
  const Printed again = run_command("timeout -s INT 5 " + train("run", "long.yaml") + " 2>&1");
  EXPECT_NE(again.text.find("Resuming"), std::string::npos) << again.text;
}

TEST_F(LostRank, ThatHangsIsNamedAfterTheTimeOut) {
  const Printed printed = lose(SIGSTOP, "TRIMTAB_RANK_TIMEOUT_S=3 ");
  EXPECT_NE(printed.status, 0);
  EXPECT_NE(printed.text.find("rank 0 of 2 waited 3 s in"), std::string::npos) << printed.text;
  EXPECT_NE(printed.text.find("during step"), std::string::npos) << printed.text;
  if (lost_ > 0) kill(lost_, SIGKILL);
}

// All are told to stop: the checkpoint is that of the update they stopped at.
void expect_stopped(const Printed& printed, const fs::path& run) {
  const std::string said = "stopped at step ";
  const size_t at = printed.text.find(said);
  ASSERT_NE(at, std::string::npos) << printed.text;
  EXPECT_EQ(CheckpointFolder(run / "checkpoints").load("latest").step, std::stoll(printed.text.substr(at + said.size())));
}

TEST_F(LostRank, NoneIsLostAtASignalThatMpirunPassesOn) {
  expect_stopped(struck("", [](const std::vector<pid_t>& found) { kill(parent_of(found[0]), SIGUSR1); }), folder_.path() / "run");
}

TEST_F(LostRank, NoneIsLostAtASignalToEveryRank) {
  expect_stopped(struck("", [](const std::vector<pid_t>& found) { for (const pid_t rank : found) kill(rank, SIGTERM); }), folder_.path() / "run");
}

}  // namespace
}  // namespace trimtab
