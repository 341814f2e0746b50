// What tests of mixtures over adapters share: a base and two adapters of it, of other ranks and targets.
#pragma once

#include <string>
#include <vector>

#include "core/files.h"
#include "trainers/language/test_support.h"

namespace trimtab {

class BaseAndAdapters {
 protected:
  BaseAndAdapters() {
    train_in(base(), tiny_run("preset: sft, steps: 2, rows: 4"));
    as_run(base());
    const std::string sft = tiny_run("preset: sft, steps: 2, rows: 4, lr: 5e-2");
    train_in(root_.path() / "one", sft, {model(), "policy.lora={rank: 3, alpha: 6, targets: [q_proj, down_proj]}"});
    train_in(root_.path() / "two", sft, {model(), "policy.lora={rank: 2, alpha: 2}", "run.seed=5"});
    as_run(root_.path() / "one");
  }
  static void as_run(const std::filesystem::path& folder) { write_file_atomically(folder / "config.yaml", "run: {name: a-run}\n"); }
  std::filesystem::path base() const { return root_.path() / "base"; }
  std::string model() const { return "policy.model=" + base().string(); }
  std::vector<std::string> options() const {
    return {"policy={model: " + base().string() + "}",
            "trainer.adapters=[" + (root_.path() / "one").string() + ", " + (root_.path() / "two" / "adapter").string() + "]"};   // a run and a folder
  }
  TemporaryFolder root_;
};

}  // namespace trimtab
