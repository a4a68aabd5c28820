//! Why an event is in its state (`Delivery.reason`), and why an attempt has no report (`Attempt.platform_error`).

use super::reasons;

reasons! {
    ALREADY_FIRED: "SUPPRESSED", "event-ingest", No,
        "The template fires once per conversation, and an earlier event has fired it." =>
        "Nothing, as a rule: the template's one event of the conversation is the one that `reason_message` names. If that \
         has not run (NO_FUNCTION, EXPIRED), replay that one.";
    NO_FUNCTION: "NO_FUNCTION", "event-ingest", No,
        "The account had no live function for the template when the event's turn came." =>
        "Deploy one, then replay the events in this state.";
    SKILL_NOT_LISTED: "NO_FUNCTION", "event-ingest", No,
        "The function runs for the skills of its settings only, and the event carries none of them." =>
        "If it should have run, add the skill to `settings.skills`, deploy, and replay.";
    DELIVER_BY_PASSED: "EXPIRED", "event-ingest", No,
        "The event's own `deliver_by` passed before a run could succeed." =>
        "Replay it if it still matters. If it happens often: see what the attempts waited for.";
    MAX_AGE_PASSED: "EXPIRED", "event-ingest", No,
        "The function's `settings.retry.max_age` passed before a run could succeed." =>
        "Replay it if it still matters, or allow more time.";
    RETRY_BUDGET_SPENT: "RETRYING", "event-ingest", Yes,
        "So many events of the function fail that its retries wait, until they succeed again or few enough fail." =>
        "Mend what fails: the attempts of these events say what it is.";
    LAMBDA_FAILED: "DEAD_LETTERED, HALTED", "event-ingest", No,
        "The last attempt failed, or its kind of failure is not retried (`settings.retry.retry_on`); its report says how." =>
        "Correct the lambda, or what it calls, and deploy. Then replay dead letters; resume or skip halted events.";
    SKIPPED: "DEAD_LETTERED", "event-ingest", No,
        "An operator had the conversation go on without this event." =>
        "Replay it if it should run after all.";

    // Also the reasons of attempts that have no report.
    INGEST_DIED: "DEAD_LETTERED, HALTED", "event-ingest", Idempotent,
        "Event-ingest ended, or lost the lane, before the attempt's result was recorded: it may have run." =>
        "If it recurs for one event, that event may be what ends the process: see the logs. Otherwise replay or resume.";
    INVOKER_CONNECTION_LOST: "DEAD_LETTERED, HALTED", "event-ingest", Idempotent,
        "The connection to the invoker was lost during the run, which may have come to its end." =>
        "See whether invokers were killed (memory), then replay or resume.";
    INVOKER_DEADLINE_EXCEEDED: "DEAD_LETTERED, HALTED", "event-ingest", Idempotent,
        "The invoker did not answer within the run's whole time." =>
        "See the invokers' load and the network between, then replay or resume.";
    INVOKER_FAILED: "DEAD_LETTERED, HALTED", "event-ingest", Idempotent,
        "The invoker failed with an error of its own, which the attempt's message has." =>
        "If the message has an error id, the invoker's log has the causes under it. Then replay or resume.";
}
