// `trimtab completion bash|zsh|fish`: prints a completion script made from the registered verbs.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "app/command.h"
#include "app/fit.h"

namespace trimtab {
namespace {

std::string joined(const std::vector<std::string>& words) { return fmt::format("{}", fmt::join(words, " ")); }

// Verbs whose first words are not file names.
std::string fixed_words(const std::string& verb) {
  if (verb == "list") return "envs policies trainers kernels configs";
  if (verb == "fit") return joined(Registry<Fit>::instance().names());
  if (verb == "completion") return "bash zsh fish";
  return "";
}

std::string bash_script() {
  const auto& verbs = Registry<Verb>::instance();
  std::string cases;
  for (const std::string& name : verbs.names()) {
    cases += fmt::format("    {}) options=\"{}\"; fixed=\"{}\" ;;\n", name,
                         joined(option_names(verbs.get(name, "verb"))), fixed_words(name));
  }
  return fmt::format(R"sh(# trimtab completion for bash: eval "$(trimtab completion bash)"
_trimtab() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" options="" fixed=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{}" -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{}  esac
  if [[ "$word" == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
  elif [ -n "$fixed" ]; then
    COMPREPLY=($(compgen -W "$fixed" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}}
complete -o filenames -F _trimtab trimtab
)sh",
                     joined(verbs.names()), cases);
}

std::string fish_script() {
  const auto& verbs = Registry<Verb>::instance();
  std::string out = "# trimtab completion for fish: trimtab completion fish | source\n";
  for (const std::string& name : verbs.names()) {
    const Verb& verb = verbs.get(name, "verb");
    out += fmt::format("complete -c trimtab -n __fish_use_subcommand -a {} -d \"{}\"\n", name, verb.doc);
    for (const std::string& option : option_names(verb))
      out += fmt::format("complete -c trimtab -n \"__fish_seen_subcommand_from {}\" -l {}\n", name,
                         option.substr(2));
    if (const std::string words = fixed_words(name); !words.empty())
      out += fmt::format("complete -c trimtab -n \"__fish_seen_subcommand_from {}\" -f -a \"{}\"\n", name,
                         words);
  }
  return out;
}

int complete(const std::vector<std::string>& words) {
  const std::string shell = words.size() == 1 ? words[0] : "";
  if (shell == "bash") {
    fmt::print("{}", bash_script());
  } else if (shell == "zsh") {
    fmt::print(
        "# trimtab completion for zsh: eval \"$(trimtab completion zsh)\"\nautoload -U +X compinit && "
        "compinit -u\n"
        "autoload -U +X bashcompinit && bashcompinit\n{}",
        bash_script());
  } else if (shell == "fish") {
    fmt::print("{}", fish_script());
  } else {
    throw ConfigError("say which shell: trimtab completion bash, zsh or fish");
  }
  return 0;
}

TT_REGISTER(Verb, completion,
            {.name = "completion",
             .doc = "Print a completion script for a shell",
             .declare = [](Arguments& a) {
               auto words = std::make_shared<std::vector<std::string>>();
               a.words("SHELL", *words, "bash, zsh or fish");
               return [words] { return complete(*words); };
             }});

}  // namespace
}  // namespace trimtab
