//! From a source in any language to a prepared function.

use chatfn_domain::settings::Language;
use chatfn_engine::{Engine, PrepareError, PrepareLimits, Prepared};

/// Prepares a source. Cancel safe.
///
/// # Errors
/// Why it cannot be prepared; places are those of the source, whatever its language.
pub(crate) async fn prepare(
    engine: &Engine,
    source: &str,
    language: Language,
    limits: PrepareLimits,
) -> Result<Prepared, PrepareError> {
    match language {
        Language::JavaScript => engine.prepare(source, limits).await,
        Language::TypeScript => {
            let javascript = engine.erase_types(source, limits).await?;
            engine.prepare(&javascript, limits).await
        }
    }
}
