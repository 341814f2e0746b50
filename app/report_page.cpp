// The page around the plots: head, key figures, tables.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "app/plot.h"
#include "app/report.h"
#include "app/report_plots.h"

namespace trimtab {
namespace {

using nlohmann::json;

std::string figure_text(const json& value) {
  if (!value.is_number()) return "–";
  const double x = value.get<double>(), size = std::abs(x);
  return fmt::format("{:.{}f}", x, size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.01 || x == 0 ? 3 : 5);
}

std::string interval_text(const json& interval) {
  if (interval["low"].is_null()) return figure_text(interval["mean"]);
  return fmt::format("{} <span class='ci'>[{}, {}]</span>", figure_text(interval["mean"]),
                     figure_text(interval["low"]), figure_text(interval["high"]));
}

const json* paired_row(const json& e, const std::string& policy, const std::string& against,
                       const std::string& metric, const std::string& file) {
  for (const json& row : e["paired"]) {
    if (row["policy"] == policy && row["against"] == against && row["metric"] == metric &&
        row["file"] == file)
      return &row;
  }
  return nullptr;
}

std::string heading_cells(const std::vector<std::string>& names) {
  std::string out = "<tr>";
  for (const std::string& name : names) out += "<th scope='col'>" + html_escaped(name) + "</th>";
  return out + "</tr>";
}

// What a reader wants first: each learned policy against the reference, over all files.
std::string key_figures(const json& e) {
  std::string out;
  const std::string reference = e["reference"], metric = e["metrics"][0]["name"];
  for (const json& row : e["policies"]) {
    if (row["kind"] != "learned" || row["file"] != "") continue;
    const json* paired = paired_row(e, row["name"], reference, metric, "");
    if (paired == nullptr) continue;
    const json& r = (*paired)["ratio"];
    out += fmt::format(
        "<div class='tile'><p class='of'>{}</p><p class='value'>{}×</p><p class='ci'>[{}, {}], n = {}</p><p "
        "class='what'>{} against {}</p></div>",
        html_escaped(row["name"]), figure_text(r["mean"]), figure_text(r["low"]), figure_text(r["high"]),
        r["n"].dump(), html_escaped(metric), html_escaped(reference));
  }
  return out.empty() ? "" : "<div class='tiles'>" + out + "</div>";
}

std::string policy_table(const json& e, const std::string& file) {
  std::vector<std::string> head = {"policy", "kind"};
  for (const json& m : e["metrics"])
    head.push_back(m["unit"] == ""
                       ? m["name"].get<std::string>()
                       : fmt::format("{} ({})", m["name"].get<std::string>(), m["unit"].get<std::string>()));
  const std::string reference = e["reference"], first = e["metrics"][0]["name"];
  head.insert(head.begin() + 3, first + " / " + reference);
  std::string body;
  for (const json& row : e["policies"]) {
    if (row["file"] != file) continue;
    const bool learned = row["kind"] == "learned";
    body +=
        fmt::format("<tr{}><th scope='row'>{}</th><td class='kind'>{}</td>",
                    learned ? " class='learned'" : "", html_escaped(row["name"]), html_escaped(row["kind"]));
    for (size_t m = 0; m < e["metrics"].size(); ++m) {
      body += "<td>" + interval_text(row["metrics"][e["metrics"][m]["name"].get<std::string>()]) + "</td>";
      if (m > 0) continue;
      const json* paired = paired_row(e, row["name"], reference, first, file);
      body += "<td>" + (paired == nullptr ? std::string("1") : interval_text((*paired)["ratio"])) + "</td>";
    }
    body += "</tr>\n";
  }
  return "<div class='scroll'><table><thead>" + heading_cells(head) + "</thead><tbody>" + body +
         "</tbody></table></div>";
}

std::string frontier_table(const json& e) {
  std::string body;
  for (const json& row : e["frontier"]) {
    if (row["file"] != "") continue;
    const double clamped = row["clamped"];
    body += fmt::format(
        "<tr><th scope='row'>{}</th><td class='text'>{}</td><td class='text'>{} at equal "
        "{}</td><td>{}</td><td class='text'>{}</td></tr>\n",
        html_escaped(row["policy"]), html_escaped(row["frontier"]), html_escaped(row["y"]),
        html_escaped(row["x"]), interval_text(row["ratio"]),
        clamped > 0
            ? fmt::format("outside its range in {:.0f} % of resamples: end point taken", 100 * clamped)
            : "");
  }
  if (body.empty()) return "";
  return "<h2>At equal fairness</h2><p>The policy's value over the height of the interpolated frontier at "
         "the policy's own position on the other axis, inside the bootstrap.</p>"
         "<div class='scroll'><table><thead>" +
         heading_cells({"policy", "frontier", "what", "ratio", "note"}) + "</thead><tbody>" + body +
         "</tbody></table></div>";
}

std::string details(const std::string& title, const std::string& body) {
  return fmt::format("<details><summary>{}</summary>{}</details>\n", html_escaped(title), body);
}

std::string paired_table(const json& e) {
  std::string body;
  for (const json& row : e["paired"]) {
    if (row["file"] != "" || row["metric"] != e["metrics"][0]["name"]) continue;
    body += fmt::format("<tr><th scope='row'>{}</th><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                        html_escaped(row["policy"]), html_escaped(row["against"]),
                        interval_text(row["ratio"]), interval_text(row["difference"]));
  }
  return "<div class='scroll'><table><thead>" + heading_cells({"policy", "against", "ratio", "difference"}) +
         "</thead><tbody>" + body + "</tbody></table></div>";
}

std::string evaluation_facts(const json& e) {
  int64_t episodes = 0;
  std::string files;
  for (const json& d : e["data"]) {
    episodes += d["episodes"].get<int64_t>();
    files += fmt::format("<li><code>{}</code>, {}, {} independent episodes</li>", html_escaped(d["file"]),
                         html_escaped(d["split"]), d["episodes"].dump());
  }
  const int64_t seeds = e["seeds"];
  std::string overrides;
  for (const json& text : e.value("overrides", json::array()))
    overrides += fmt::format(" <code>{}</code>", html_escaped(text));
  const std::string trained =
      seeds == 0 ? "baselines only" : fmt::format("{} training seed{}", seeds, seeds == 1 ? "" : "s");
  return fmt::format(
      "<p class='lead'>Environment <code>{}</code>, {}, {} independent episodes; every policy met the same "
      "worlds.{}</p><ul>{}</ul>",
      html_escaped(e["environment"]), trained, episodes,
      overrides.empty() ? "" : " Overrides:" + overrides + ".", files);
}

std::string evaluation_sections(const json& e) {
  std::string out = evaluation_facts(e) + key_figures(e);
  out += "<h2>Plots</h2><div class='figures'>" + frontier_figures(e) + distribution_figures(e) +
         series_figures(e) + "</div>";
  const bool several = e["data"].size() > 1;
  out += fmt::format("<h2>All policies{}</h2>", several ? ", all files" : "") +
         "<p>Mean and 95 % interval by bootstrap over independent episodes crossed with training seeds. "
         "Ratios are paired.</p>" +
         policy_table(e, "");
  for (const json& d : e["data"]) {
    const std::string file = d["file"];
    if (several) out += details(file, policy_table(e, file));
  }
  return out + frontier_table(e) +
         details("Paired comparisons in " + e["metrics"][0]["name"].get<std::string>(), paired_table(e));
}

constexpr const char* kStyle =
    ":root{color-scheme:light "
    "dark;--page:#fcfcfb;--card:#ffffff;--ink:#1b1b19;--soft:#5d5c57;--hair:#e8e7e2;--axis:#b9b8b1;--mark:#"
    "eef4fc}"
    "@media(prefers-color-scheme:dark){:root{--page:#191918;--card:#222220;--ink:#f3f2ee;--soft:#b4b3ab;--"
    "hair:#373733;--axis:#5f5e58;--mark:#22303f}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 "
    "system-ui,-apple-system,'Segoe UI',sans-serif}"
    "main{max-width:1180px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0 0 "
    "4px;overflow-wrap:anywhere}h2{font-size:18px;margin:36px 0 10px}"
    "p{margin:0 0 10px;max-width:80ch}.lead,.note,.of,.what,.ci,.kind{color:var(--soft)}ul{margin:0 0 "
    "14px;padding-left:20px}code{font-size:.92em}"
    ".tiles{display:flex;flex-wrap:wrap;gap:14px;margin:18px 0}.tile{background:var(--card);border:1px solid "
    "var(--hair);border-radius:10px;padding:14px 18px;min-width:210px}"
    ".tile p{margin:0}.tile "
    ".value{font-size:30px;font-weight:650;line-height:1.25}.ci{font-size:.86em;white-space:nowrap}"
    ".figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:18px}"
    "figure{margin:0;background:var(--card);border:1px solid var(--hair);border-radius:10px;padding:14px "
    "16px}figcaption{font-weight:600}"
    ".note{font-size:13px;margin:2px 0 0}.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px "
    "16px;margin:8px 0 6px;padding:0;font-size:13px}"
    ".legend li{display:flex;align-items:center;gap:6px}.scroll{overflow-x:auto;border:1px solid "
    "var(--hair);border-radius:10px;background:var(--card)}"
    "table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}th,td{"
    "padding:6px 12px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--hair)}"
    "thead th{font-weight:600;color:var(--soft)}th[scope=row],td.kind,td.text,thead th:first-child,thead "
    "th:nth-child(2){text-align:left}tbody tr:last-child>*{border-bottom:0}"
    "th[scope=row]{font-weight:500}td.reply{white-space:pre-wrap;overflow-wrap:anywhere;text-align:left;min-width:16em}tr.learned{background:var(--mark)}details{margin:12px "
    "0}summary{cursor:pointer;font-weight:600;margin-bottom:8px}"
    "pre{background:var(--card);border:1px solid "
    "var(--hair);border-radius:10px;padding:14px;overflow-x:auto;font-size:12.5px}footer{margin-top:40px;"
    "color:var(--soft);font-size:13px}";

// The lines of a file that are objects with `key`: the last one may have been cut off.
std::vector<json> json_lines(const std::filesystem::path& file, const std::string& key) {
  std::vector<json> out;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    json parsed = json::parse(line, nullptr, false);
    if (parsed.is_object() && parsed.contains(key)) out.push_back(std::move(parsed));
  }
  return out;
}

}  // namespace

std::string report_html(const Report& report) {
  std::string body = fmt::format("<h1>{}</h1>", html_escaped(report.title));
  if (!report.evaluation.is_null()) body += evaluation_sections(report.evaluation);
  std::vector<ReportRun> language, others;
  for (const ReportRun& run : report.runs) (is_language(run) ? language : others).push_back(run);
  if (const std::string curves = language_figures(language) + learning_figures(others); !curves.empty())
    body += "<h2>Training</h2><div class='figures'>" + curves + "</div>";
  body += sample_sections(language);
  for (const ReportRun& run : report.runs) {
    if (!run.config.empty())
      body += details("Configuration of " + run.name, "<pre>" + html_escaped(run.config) + "</pre>");
  }
  std::string foot = "Made by trimtab " TRIMTAB_VERSION;
  if (!report.evaluation.is_null())
    foot += " on " + report.evaluation["hardware"].value("cpu", std::string("an unnamed processor"));
  return "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
         "content='width=device-width,initial-scale=1'><title>" +
         html_escaped(report.title) + "</title><style>" + kStyle + plot_css() +
         "</style></head>\n<body><main>" + body + "<footer>" + html_escaped(foot) +
         "</footer></main></body></html>\n";
}

std::vector<ReportRun> report_runs(const std::vector<std::string>& names) {
  namespace fs = std::filesystem;
  std::vector<ReportRun> out;
  for (const std::string& name : names) {
    const fs::path folder = fs::path(name).lexically_normal();
    if (!fs::exists(folder / "metrics.jsonl")) continue;
    ReportRun run{.name = folder.filename().empty() ? folder.parent_path().filename().string()
                                                    : folder.filename().string(),
                  .config = "",
                  .metrics = {}};
    run.metrics = json_lines(folder / "metrics.jsonl", "step");
    run.samples = json_lines(folder / "samples.jsonl", "reply");
    std::ifstream config(folder / "config.yaml");
    run.config = (std::stringstream() << config.rdbuf()).str();
    out.push_back(std::move(run));
  }
  return out;
}

}  // namespace trimtab
