//! I11: templates that fire once per conversation.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Answer, Effect, Final, Publication, Template};

/// Of each conversation, not one event but several ran, or none was let run.
pub(super) fn broken(
    publications: &[Publication],
    finals: &HashMap<&str, &Final>,
    effects: &HashMap<&str, Vec<&Effect>>,
) -> Vec<String> {
    let mut conversations: BTreeMap<(&str, &str), Vec<&Publication>> = BTreeMap::new();
    for publication in publications.iter().filter(|publication| publication.template == Template::Once) {
        conversations.entry((&publication.account, &publication.conversation)).or_default().push(publication);
    }
    let mut broken = Vec::new();
    for ((account, conversation), publications) in conversations {
        let events = || publications.iter().map(|publication| publication.event.as_str());
        // Also of those of which their client does not know: they may be what fired.
        let let_run = events().filter(|event| finals.get(event).is_some_and(|it| it.state != "SUPPRESSED"));
        let (let_run, ran) = (let_run.count(), events().filter(|event| effects.contains_key(event)).count());
        let is_any_known = publications.iter().any(|it| it.answer == Answer::Acknowledged);
        let wanted = usize::from(is_any_known);
        if let_run > 1 || let_run < wanted || ran > 1 {
            broken
                .push(format!("of {conversation} of {account}, {let_run} events were let run and {ran} ran"));
        }
    }
    broken
}
