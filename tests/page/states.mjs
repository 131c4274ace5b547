// A connector's answers, made up: every state the page has to show, and texts that would be markup if the page let them.
export const HOSTILE = '<img src=x onerror="window.broken=1"><script>window.broken=1</script>';

const feed = (more) => ({
  state: "live", watermark: "2026-11-24T08:00:00.000Z", late_watermark: "2026-11-24T07:50:00.000Z", lag_ms: 65000, last_window: ["2026-11-24T07:59:00.000Z", "2026-11-24T08:00:00.000Z"],
  windows: 12, rows: 3456, unchanged: 3000, events: 456, dead_letters: 0, calls: 34, progress: null, backfill: null, clock_skew_ms: -120, latest_late_row_ms: null, advice: null, error: null, ...more,
});
const result = (seq, more) => ({
  seq, at: "2026-11-24T08:00:01.000Z", return_no: `TH${seq}`, command_id: `c-${seq}`, outcome: "CREATED", outbound_no: `CK${seq}`, erp_code: null, erp_message: null, explanation: null, explanation_zh: null, warning: null,
  violations: [], candidates: [], attempts: 1, recovered: false, duplicate: false, resolved: false, took_ms: 420, partition: 0, offset: seq, ...more,
});

export const troubled = {
  version: "0.1.0", instance: "wdt-connector.0", now: "2026-11-24T08:01:05.000Z", started_at: "2026-11-24T08:00:00.000Z", uptime_seconds: 65, healthy: false, ready: false,
  stalled: [{ loop: "feeds.purchase_returns", heartbeat_age_ms: 700000 }], unready: [{ part: "commands", reason: "partitions [0, 1, 2] are being restored" }],
  sections: {
    commands: {
      circuit: "open", circuit_reason: HOSTILE, received: 1234, results: { CREATED: 1200, IN_DOUBT: 2 }, duplicates: 3, recovered: 1, dead_letters: 4, transactions: 99, calls: 1210, lookups: 7, restored_entries: 5,
      now: { pending: 30, consumer_lag_records: 4321, waiting_for_quota: 20, waiting_for_commit: 2, calls_in_flight: 0, open_intents: 6, unverified: 1 },
      unverified_commands: [{ return_no: "TH9", command_id: "c-9", attempt: 2, since: "2026-11-24T08:00:30.000Z" }],
      partitions: [{ partition: 0, committed_offset: 5, pending: 30, draining: false }],
    },
    feeds: {
      purchase_returns: feed({ state: "waiting", error: "the ERP could not be reached" }),
      return_outbounds: feed({ state: "snapshot", progress: { from: "2026-01-01T00:00:00Z", to: "2026-11-24T00:00:00Z", position: "2026-05-01T00:00:00Z", percent: 37.5, rows_per_second: 90, remaining_seconds: 4000 } }),
    },
    quota: [],
    reload: { last: "erp: refused", at: "2026-11-24T08:00:00.000Z", refused: { erp: "the secret of [erp.flagship] is not of the form `secret:salt`" } },
  },
  recent: {
    results: [
      result(3, { outcome: "IN_DOUBT", outbound_no: null, candidates: ["CK7", "CK8"], explanation: "several orders carry the marker", explanation_zh: "多张出库单带有标记" }),
      result(2, { outcome: "INVALID", outbound_no: null, violations: [`warehouse_no ${HOSTILE}`] }),
      result(1, { recovered: true }),
    ],
    changes: [{ seq: 4, at: "2026-11-24T08:00:02.000Z", feed: "return_outbounds", pass: "live", op: "u", id: "77", number: HOSTILE, status: 110, return_no: "TH1", modified: "2026-11-24T07:59:00.000Z" }],
    dead_letters: [
      { seq: 5, at: "2026-11-24T08:00:03.000Z", pipeline: "commands", reason: "undecodable", detail: `no Avro: ${HOSTILE}`, key: HOSTILE, partition: 2, offset: 17 },
      { seq: 7, at: "2026-11-24T08:00:02.000Z", pipeline: "commands", reason: "in_doubt", detail: "why it is in doubt", detail_zh: "存疑的原因", key: "TH3", partition: 2, offset: 16 },
    ],
    notices: [{ seq: 6, at: "2026-11-24T08:00:04.000Z", kind: "reload", text: HOSTILE }],
  },
};

export const calm = {
  ...troubled, healthy: true, ready: true, stalled: [], unready: [],
  sections: { ...troubled.sections, commands: { ...troubled.sections.commands, circuit: "closed", circuit_reason: null, unverified_commands: [] }, feeds: { purchase_returns: feed({}), return_outbounds: feed({}) }, reload: { refused: {} } },
};

export const samples = Array.from({ length: 60 }, (_, at) => ({
  at: 1764000000000 + at * 2000, received: at * 10, settled: at * 9, dead_letters: 0, pending: at % 20, lag: 4000 + at, in_flight: at % 5, unverified: 1,
  feeds: { purchase_returns: { events: at * 2, rows: at * 20, lag_ms: 65000 }, return_outbounds: { events: at, rows: at * 10, lag_ms: 70000 } },
  quota: { create_order: { used: { command: 30 + at % 20, lookup: 5 }, rate: 50, burst: 10 }, query_outbounds: { used: { feed: 3, late_pass: 1, lookup: 4 }, rate: 50, burst: 10 } },
}));
