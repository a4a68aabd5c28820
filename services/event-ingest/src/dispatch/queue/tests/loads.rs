//! What is loaded, and together with what.

use super::*;

const ROOM: Room = Room { places: 100, events: 100, bytes: 100, ahead: 10, aside: 10 };

fn key(conversation: &str) -> ConversationKey {
    Arc::new(("acme".parse().unwrap(), conversation.parse().unwrap()))
}

fn event(sequence: i64, conversation: &str) -> Event {
    Event { bytes: 1, ..Event::of(sequence, key(conversation)) }
}

/// A queue in which these conversations, of one event each, are to be loaded.
fn to_load(conversations: &[&'static str]) -> LaneQueue<Event> {
    let now = Instant::now();
    let mut queue = LaneQueue::new(0, ROOM);
    let events = (1..).zip(conversations).map(|(n, id)| event(n, id));
    queue.offer(events.collect(), 100);
    while let Some(event) = queue.next_ready(all) {
        queue.wait(&event.conversation, head(event.sequence, 1), now, true);
    }
    queue
}

#[test]
fn what_failed_is_loaded_again_without_others() {
    let mut queue = to_load(&["a", "b", "c", "d"]);
    let now = Instant::now();
    for load in queue.take_loads(now, 2) {
        queue.put_back(load);
    }
    // One of them fails for ever.
    let mut take = || {
        let loads = queue.take_loads(now, 16);
        let names: Vec<_> = loads.iter().map(|load| load.conversation.1.to_string()).collect();
        for load in loads.into_iter().filter(|load| load.conversation == key("b")) {
            queue.put_back(load);
        }
        names
    };
    let taken: Vec<_> = (0..5).map(|_| take()).collect();
    // What has not failed is loaded together.
    assert_eq!(taken, [vec!["c", "d"], vec!["a"], vec!["b"], vec!["b"], vec!["b"]]);
}

#[test]
fn a_conversation_goes_on_from_where_a_load_found_nothing() {
    let now = Instant::now();
    let mut queue = LaneQueue::new(0, ROOM);
    queue.offer(vec![event(1, "a")], 100);
    assert!(queue.next_ready(all).is_some());
    queue.halt(&key("a"), head(1, 1), now);
    queue.resume(&key("a"), 1);
    for (from, looked_to) in [(1, 40), (41, 80)] {
        let load = queue.take_loads(now, 1).remove(0);
        assert_eq!((load.from, load.to), (from, 100));
        queue.found_nothing(&load, looked_to);
        assert_eq!(queue.cursor(), looked_to);
    }
    let load = queue.take_loads(now, 1).remove(0);
    assert_eq!((load.from, load.to), (81, 100));
    queue.loaded(&load, Vec::new(), true);
    assert_eq!((queue.cursor(), queue.conversations()), (100, 0));
}
