//! What calls may take of the database: no more time than they have.

use std::time::Duration;

use chatfn_pg::budget;
use chatfn_rpc::{ApiError, Deadline, Handling, Scoped, budget::hop_margin, reasons};

/// What is kept of a call's time to say that it is over. Less than what handlers keep for their own answers.
const LAST_WORD: Duration = Duration::from_millis(5);

/// Has all that a handler asks of the database end with the call, as [`budget::within`] does.
pub(crate) fn within_budget(deadline: Deadline, handling: Handling) -> Scoped {
    let before = |margin| deadline.shrink(margin).instant().into_std();
    let statements = before(hop_margin(deadline.remaining()));
    let work = budget::within(statements, before(LAST_WORD), handling);
    Box::pin(async move {
        work.await
            .map_err(|expired| ApiError::deadline_exceeded(reasons::DEADLINE_EXCEEDED, expired.to_string()))
    })
}
