"""Every metric of the service, in one place; units are base units, and no label has a job's id or a client's text.

Labels have few values: models and APIs that are configured, tasks, states, and codes of google.rpc.
"""

from __future__ import annotations

from zoetrope.cluster.telemetry.catalogue import counter, describe, gauge, histogram

# Upper bounds, in seconds unless said.
CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
JOB_BUCKETS = (1, 2.5, 5, 10, 20, 30, 60, 90, 120, 180, 300, 450, 600, 900, 1200, 3600)
STAGE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1200)
STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)  # segments
TOKEN_BUCKETS = tuple(1_000 * 2**i for i in range(11))  # tokens, to a million
RATIO_BUCKETS = (1.05, 1.1, 1.25, 1.5, 2, 3, 4, 6, 8, 16)

# Gateways.
REQUESTS = counter("zoetrope_requests_total", "Calls that ended, by API, method and code.", api=(), method=(), code=())
REQUEST_SECONDS = histogram(
    "zoetrope_request_seconds", "Seconds from a call's headers to the end of its answer.", CALL_BUCKETS, "api", "method"
)
SUBMISSIONS = counter(
    "zoetrope_submissions_total", "Jobs that clients asked for, by what became of that.", api=(), outcome=()
)

# Routers.
QUEUE_SECONDS = histogram(
    "zoetrope_job_queue_seconds", "Seconds from a job's acceptance to its first claim.", JOB_BUCKETS, "model", "task"
)
JOB_SECONDS = histogram(
    "zoetrope_job_seconds", "Seconds from a job's acceptance to its end.", JOB_BUCKETS, "model", "task", "state"
)
JOBS_ENDED = counter("zoetrope_jobs_ended_total", "Jobs that a router ended.", model=(), state=(), code=())
JOBS_RESUMED = counter(
    "zoetrope_jobs_resumed_total", "Jobs that were claimed again after a router had lost or released them."
)
LEASES_LOST = counter("zoetrope_leases_lost_total", "Leases that ran out or went to another router.")

# Engines.
STEP_SECONDS = histogram("zoetrope_step_seconds", "Seconds of a step, with all of its batch.", STEP_BUCKETS, "model")
BATCH_SIZE = histogram("zoetrope_step_batch_size", "Segments that a step had in its batch.", BATCH_BUCKETS, "model")
STEP_TOKENS = histogram("zoetrope_step_tokens", "Tokens that a step had in its batch.", TOKEN_BUCKETS, "model")
EXPERT_IMBALANCE = histogram(
    "zoetrope_expert_imbalance_ratio",
    "Tokens of a layer's busiest expert over the mean of its experts, the mean of the layers, in a sampled step.",
    RATIO_BUCKETS,
    "model",
)
SNAPSHOTS = counter("zoetrope_snapshots_total", "Snapshots of segments.", outcome=("written", "failed"))
SNAPSHOT_SECONDS = histogram("zoetrope_snapshot_seconds", "Seconds that the writing of a snapshot took.", CALL_BUCKETS)
START_SECONDS = gauge("zoetrope_start_seconds", "Seconds of the newest start, by phase.", "model", "phase")

# Conditioners and decoders.
STAGE_SECONDS = histogram(
    "zoetrope_stage_seconds", "Seconds that a stage worked on a job.", STAGE_BUCKETS, "model", "stage"
)
STAGE_FAILURES = counter("zoetrope_stage_failures_total", "Calls of a stage that failed, by code.", stage=(), code=())

# Sweepers.
WEBHOOKS = counter(
    "zoetrope_webhooks_total", "Attempts to send a webhook.", outcome=("delivered", "retried", "given_up")
)
WEBHOOK_DELAY_SECONDS = histogram(
    "zoetrope_webhook_delay_seconds", "Seconds from an event to the delivery of its webhook.", JOB_BUCKETS
)
SWEEPS = counter("zoetrope_sweeps_total", "Rounds of the sweeper.", outcome=("done", "failed"))
SWEPT = counter("zoetrope_swept_total", "Jobs and media that were deleted because they had expired.")
SWEPT_AT = gauge("zoetrope_sweep_timestamp_seconds", "When a round of the sweeper last succeeded, in Unix time.")

# All of them.
STORE_ERRORS = counter(
    "zoetrope_store_errors_total",
    "Calls of a store that failed because of it.",
    store=("database", "artifacts", "snapshots"),
)

# Read from the job database at each scrape, by gateways.
JOBS = describe("zoetrope_jobs", "gauge", "Jobs by state.", ["state"], stored=True)
ENGINES = describe("zoetrope_engines", "gauge", "Engines by state.", ["state"], stored=True)
GANG_EPOCH = describe("zoetrope_gang_epoch", "gauge", "Grows when a gang is rebuilt.", ["engine"], stored=True)
GANG_RESTARTS = describe(
    "zoetrope_gang_restarts_total",
    "counter",
    "Gangs that an engine lost, by what became of them.",
    ["engine", "reason"],
    stored=True,
)
QUEUED_GPU_SECONDS = describe(
    "zoetrope_queued_gpu_seconds",
    "gauge",
    "GPU-seconds that unfinished jobs are expected to take yet, by model.",
    ["model"],
    stored=True,
)
DESIRED_ENGINES = describe(
    "zoetrope_desired_engines", "gauge", "Engines that this work wants, by deployment.", ["deployment"], stored=True
)
ETA_ERROR = describe(
    "zoetrope_eta_error_ratio",
    "histogram",
    "How far the first estimate of each job's end was off, as a share of the job's duration, by the stage in which it"
    " was made.",
    ["model", "stage"],
    stored=True,
)
STAGE_CALLS = describe(
    "zoetrope_stage_calls",
    "gauge",
    "Calls that run in conditioners and decoders, or wait.",
    ["stage", "state"],
    stored=True,
)
WAITING_LATENTS = describe(
    "zoetrope_waiting_latents_bytes",
    "gauge",
    "Finished latents that wait, in memory or spilled.",
    ["place"],
    stored=True,
)
CACHE_BYTES = describe("zoetrope_condition_cache_bytes", "gauge", "What conditioners keep.", ["cache"], stored=True)
CACHE_LOOKUPS = describe(
    "zoetrope_condition_cache_lookups_total",
    "counter",
    "What conditioners looked up and had or not.",
    ["cache", "found"],
    stored=True,
)
NEWEST_STEP_SECONDS = describe(
    "zoetrope_engine_step_seconds",
    "gauge",
    "Seconds that an engine's newest finished step took.",
    ["engine"],
    stored=True,
)
PREDICTED_STEP_SECONDS = describe(
    "zoetrope_engine_step_predicted_seconds",
    "gauge",
    "Seconds that had been predicted for that step.",
    ["engine"],
    stored=True,
)
STEP_COST_ERROR = describe(
    "zoetrope_step_cost_error_ratio",
    "gauge",
    "Median error of recent predictions of an engine's steps, as a share of what they took.",
    ["engine"],
    stored=True,
)
