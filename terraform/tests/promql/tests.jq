# From scenarios.json to a promtool test file: the scenario at $index, for the run $input.

def minutes($of): .[0] * $of.gap + .[1] + (.[2] // 0) * $of.failing;

# Values a minute apart: n of them missing, or n times v.
def missing(n): if n > 0 then ["_x\(n)"] else [] end;
def hold(v; n): if n > 1 then ["\(v)x\(n - 1)"] elif n == 1 then ["\(v)"] else [] end;

def succeeded: .outcome | IN("clean", "findings", "tamper");

# Every run of the scenario, in order: when its line is counted, and how it went.
def runs($of; $last):
  [ .runs[] as $row
    | [range($row.from | minutes($of); (if $row.until then $row.until | minutes($of) else $last end) + 1; ($row.every // 1) * $of.gap)]
    | to_entries[]
    | ($row.jitter // [0]) as $jitter
    | {
        at: (.value + $jitter[.key % ($jitter | length)]),
        outcome: $row.outcome,
        revision: ($row.revision // "whosigned-00001-abc"),
        before: ($row.before // 0)
      }
    | select(.at <= $last)
  ]
  | sort_by(.at);

def labels: { monitored_resource: "cloud_run_revision", service_name: "whosigned", revision_name: .revision, outcome };

# Runs that make one series, and when that ends: with the next revision's first line.
def series($runs; $last):
  group_by([.revision, .outcome])[]
  | . as $of
  | { labels: ($of[0] | labels), before: $of[0].before, at: map(.at),
      last: ([($runs[] | select(.revision != $of[0].revision and .at > $of[-1].at) | .at), $last + 1] | min) };

# How Cloud Monitoring may show a DELTA counter to PromQL. Which it is only Google can
# tell, so the queries must be right on each.
def views($runs; $last):
  {
    "a counter that is held between lines":
      [ series($runs; $last)
        | . as $s
        | ($s.at + [$s.last]) as $edges
        | (if $s.before > 0 then hold($s.before; $s.at[0]) else missing($s.at[0]) end)
          + [range($s.at | length) | hold($s.before + . + 1; $edges[. + 1] - $edges[.])[]]
        | { labels: $s.labels, values: . }
      ],
    "a counter with a point for each line":
      [ series($runs; $last)
        | . as $s
        | missing($s.at[0])
          + [range($s.at | length) | "\($s.before + . + 1)", (missing(($s.at[. + 1] // ($s.at[.] + 1)) - $s.at[.] - 1)[])]
        | { labels: $s.labels, values: . }
      ],
    "a gauge of deltas":
      [ series($runs; $last)
        | . as $s
        | ($s.at + [$s.last]) as $edges
        | missing($s.at[0])
          + [range($s.at | length) | "1", (hold(0; $edges[. + 1] - $edges[.] - 1)[])]
        | { labels: $s.labels, values: . }
      ],
    "a series for each instance":
      [ to_entries[]
        | { labels: ((.value | labels) + { instance_id: "\(.key)" }), values: (missing(.value.at) + hold(1; 15)) }
      ]
  };

def as_input($metric):
  {
    series: "logging_googleapis_com:user_\($metric){\([.labels | to_entries[] | "\(.key)=\(.value | tojson)"] | join(","))}",
    values: (.values | join(" "))
  };

# Another instance in the project, which runs well all the time.
def neighbour($last):
  ("whosigned_other_runs", "whosigned_other_attempts") as $metric
  | { labels: ({ outcome: "clean", revision: "other-00001-abc" } | labels + { service_name: "other" }), values: ["1+1x\($last)"] }
  | as_input($metric);

# What must fire at each look, but for two looks around a change.
def looks($spans; $alert; $last; $step):
  range(0; $last + 1; $step) as $at
  | select([$spans[][] | select(. != null) | . - $at | fabs] | all(. >= 2 * $step))
  | {
      eval_time: "\($at)m",
      alertname: $alert,
      exp_alerts: (if any($spans[]; .[0] <= $at and (.[1] == null or $at < .[1])) then [{}] else [] end)
    };

.inputs[$input] as $of
| .scenarios[$index] as $scenario
| ([($scenario.days // 0) * 1440, 14 * $of.gap] | max) as $last

# The policies are evaluated every 5 minutes; a day of six-hourly runs would take promtool minutes.
| ([5, $of.gap / 24] | max) as $step
| ($scenario | runs($of; $last)) as $runs
| ($runs | views($runs; $last)) as $attempts
| ([$runs[] | select(succeeded)] | views($runs; $last)) as $good
| {
    rule_files: ["rules.yml"],
    evaluation_interval: "\($step)m",
    tests: [
      ($attempts | keys[]) as $view
      | {
          name: "\($scenario.name), seen as \($view)",
          interval: "1m",
          input_series: [
            ($good[$view][] | as_input("whosigned_whosigned_runs")),
            ($attempts[$view][] | as_input("whosigned_whosigned_attempts")),
            neighbour($last)
          ],
          alert_rule_test: [
            ("no_run", "failing") as $alert
            | [($scenario.fires[$alert] // empty) | map(if . == null then . else minutes($of) end)] as $spans
            | looks($spans; $alert; $last; $step)
          ]
        }
    ]
  }
