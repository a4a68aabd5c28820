use chatfn_domain::name::EventId;

use super::{
    super::{
        ledger::{self, Next},
        replays,
        testing::{DAYS, EPOCH, LANE, World},
    },
    *,
};

/// Days that a clock may have been wrong by, and that a part has at its ends.
const BESIDE: usize = 3;
/// Most days that one statement opens.
const MOST: usize = days::MOST as usize + BESIDE;

/// An event of an old day.
struct Old {
    /// How many days ago.
    age: i32,
    event_id: String,
    /// `None`: it is halted.
    state: Option<i16>,
}

impl World {
    /// Records events of old days, each at noon, in one conversation.
    async fn record_old(&self, events: &[Old]) {
        for Old { age, event_id, state } in events {
            let (day, sequence) = (
                format!("(now() AT TIME ZONE 'UTC')::date - {age}"),
                format!("{} + 1", self.start - (i64::from(*age) << 32)),
            );
            let time = format!("({day} + time '12:00') AT TIME ZONE 'UTC'");
            self.execute(&format!(
                "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload,
                                            content_hash, accept_time)
                 VALUES ({LANE}, {sequence}, 'acme', '{event_id}', 'chat.message', 'old', '{{}}', '', {time})"
            ))
            .await;
            let rest = match state {
                Some(state) => format!(
                    "ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
                     VALUES ({LANE}, {sequence}, {state}, {EPOCH}, 'acme', {time})"
                ),
                None => format!(
                    "ingest.parked (lane, sequence, account, conversation_id, kind, next_attempt_time)
                     VALUES ({LANE}, {sequence}, 'acme', 'old', 1, now())"
                ),
            };
            self.execute(&format!("INSERT INTO {rest}")).await;
        }
    }

    /// As event-ingest does, ahead.
    async fn prepare_tomorrow(&self) {
        self.execute("SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date + 1)").await;
    }

    /// The pages of a list, of so many rows.
    async fn pages(&self, filter: &Filter, rows: i64) -> Vec<Vec<String>> {
        let (mut pages, mut after) = (Vec::new(), Some(Key::START));
        while let Some(key) = after {
            let (page, next) = list(&self.pool, filter, key, rows).await.unwrap();
            pages.push(ids(&page));
            after = next;
        }
        pages
    }
}

fn ids(rows: &[DeliveryRow]) -> Vec<String> {
    rows.iter().map(|row| row.event_id.clone()).collect()
}

fn filter(state: Option<i16>, template: Option<&str>) -> Filter {
    Filter {
        account: "acme".parse().unwrap(),
        state,
        template: template.map(|template| template.parse().unwrap()),
    }
}

fn replay(conversation_id: Option<&str>) -> replays::Filter {
    replays::Filter {
        account: "acme".parse().unwrap(),
        states: vec![3],
        template: None,
        conversation_id: conversation_id.map(|id| id.parse().unwrap()),
        start_time: Time::MIN,
        end_time: Time::MAX,
    }
}

/// What is asked costs, and locks, as much as the days that it is about; else an account could ask for so much that nobody gets
/// a lock any more.
#[tokio::test]
async fn what_is_asked_about_deliveries_of_one_day_opens_the_partitions_of_that_day() {
    let world = World::start(DAYS).await;
    let (pool, start) = (&world.pool, world.start);
    world.prepare_tomorrow().await;
    world.record(4).await;
    world.finish(1, 1).await;
    for statement in [
        "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
         SELECT lane, sequence, 4, 1, account, accept_time FROM ingest.events WHERE event_id = 'e3'",
        "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, kind, next_attempt_time)
         SELECT lane, sequence, account, conversation_id, 1, now() FROM ingest.events WHERE event_id = 'e2'",
        "UPDATE ingest.lanes SET cursor = (SELECT max(sequence) FROM ingest.events)",
    ] {
        world.execute(statement).await;
    }
    let (account, conversation) = ("acme".parse().unwrap(), "c".parse().unwrap());

    for (id, state) in [("e1", 3), ("e2", 8), ("e3", 4), ("e4", 1)] {
        let id: EventId = id.parse().unwrap();
        let row = world.opens(BESIDE, "get", get(pool, &account, &id)).await.unwrap();
        assert_eq!((row.event_id.as_str(), row.state), (id.as_str(), state));
    }
    let row = world.opens_today("halted", halted(pool, &account, &conversation)).await.unwrap();
    assert_eq!((row.event_id.as_str(), row.reason.as_str(), row.next_attempt_time), ("e2", "", None));
    let places: Vec<Place> = (1..=4).map(|n| Place { lane: LANE, sequence: start + n }).collect();
    let rows = world.opens_today("in_places", in_places(pool, &places)).await;
    assert_eq!(rows.iter().map(|row| row.state).collect::<Vec<_>>(), [3, 8, 4, 1]);
    world.opens_today("weights", weights(pool, &rows)).await;
    world.opens_today("attempts", attempts(pool, &rows)).await;
    let asked = conversation_after(pool, &rows[0]);
    assert_eq!(ids(&world.opens(BESIDE, "conversation", asked).await), ["e2", "e3", "e4"]);

    let message = Some("chat.message");
    for (wanted, rows, expected) in [
        (filter(None, None), 2, &["e4", "e3"][..]),
        (filter(Some(4), None), 1, &["e3"]),
        (filter(Some(4), message), 1, &["e3"]),
        (filter(Some(3), None), 1, &["e1"]),
        (filter(Some(1), message), 1, &["e4"]),
        (filter(Some(8), None), 1, &["e2"]),
    ] {
        let what = format!("list of {wanted:?}");
        let (page, next) = world.opens(BESIDE, &what, list(pool, &wanted, Key::START, rows)).await;
        assert_eq!(
            (ids(&page), next.is_some()),
            (expected.iter().map(|id| (*id).to_owned()).collect(), true)
        );
    }

    let since = Key { sequence: -1, lane: -1, ..rows[0].key() };
    let (counts, next) =
        world.opens(BESIDE, "ledger::page", ledger::page(pool, &account, since, Time::MAX, 100)).await;
    assert_eq!((counts.iter().map(|count| count.count).sum::<i64>(), next), (4, None));
    let next = [Next { lane: LANE, after: start, room: 10 }];
    let looked = world.opens_today("ledger::look", ledger::look(pool, &next, 100)).await;
    assert_eq!((looked[0].events, looked[0].after, looked[0].has_more), (4, start + 4, false));
    for conversation in [None, Some("c")] {
        let filter = replays::Filter { start_time: since.accept_time, ..replay(conversation) };
        let asked = async {
            let mut connection = pool.acquire().await?;
            replays::look(&mut connection, &filter, since, None, 100).await
        };
        let look = world.opens(BESIDE, "replays::look", asked).await;
        assert_eq!((look.places, look.next), (vec![places[0]], None));
    }
}

async fn conversation_after(pool: &PgPool, row: &DeliveryRow) -> Result<Vec<DeliveryRow>, sqlx::Error> {
    conversation(pool, &row.account.parse().unwrap(), &row.conversation_id.parse().unwrap(), row.key(), 10)
        .await
}

/// Days of which each has little are gone through in parts: none is left out, none told twice.
#[tokio::test]
async fn what_lies_in_many_days_is_found_in_parts() {
    let world = World::start(DAYS).await;
    let pool = &world.pool;
    let state = |n: usize| match n % 4 {
        3 => None,
        2 => Some(6),
        _ => Some(3),
    };
    // Nobody was there on that day.
    world
        .execute("UPDATE ingest.days SET open_time = NULL WHERE day = (now() AT TIME ZONE 'UTC')::date - 33")
        .await;
    // From new to old, 50 to 5 days ago, and two of before there were days.
    let old: Vec<Old> = (1..=10)
        .map(|n| Old {
            age: n * 5,
            event_id: format!("d{:02}", n * 5),
            state: state(usize::try_from(n).unwrap()),
        })
        .collect();
    world.record_old(&old).await;
    for n in [-3, 3] {
        world
            .execute(&format!(
                "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload,
                                            content_hash, accept_time)
                 VALUES ({LANE}, {n}, 'acme', 'before{n}', 'chat.start', 'older', '{{}}', '',
                         now() - interval '100 days' + {n} * interval '1 hour')"
            ))
            .await;
    }
    // A clock was set back: of a day, but accepted before it began.
    world
        .execute(
            "UPDATE ingest.events SET accept_time = accept_time - interval '20 hours' WHERE event_id = 'd20'",
        )
        .await;
    let mut all: Vec<String> = old.iter().map(|old| old.event_id.clone()).collect();
    all.extend(["before3".to_owned(), "before-3".to_owned()]);

    for rows in [1, 5, 12, 100] {
        let pages = world.pages(&filter(None, None), rows).await;
        assert_eq!(pages.concat(), all, "{rows}");
        let full = pages.iter().filter(|page| i64::try_from(page.len()).unwrap() == rows).count();
        assert!(pages.len() <= full + 1, "no page but the last has fewer than it may: {pages:?}");
        let of = |wanted: Option<i16>| -> Vec<String> {
            old.iter().filter(|old| old.state == wanted).map(|old| old.event_id.clone()).collect()
        };
        for (shown, expected) in [
            (filter(Some(3), None), of(Some(3))),
            (filter(Some(6), None), of(Some(6))),
            (filter(Some(6), Some("chat.message")), of(Some(6))),
            (filter(Some(8), None), of(None)),
            (filter(Some(1), None), all[10..].to_vec()),
            (filter(None, Some("chat.start")), all[10..].to_vec()),
            (filter(Some(7), None), Vec::new()),
        ] {
            assert_eq!(world.pages(&shown, rows).await.concat(), expected, "{shown:?}");
        }
    }

    let account = "acme".parse().unwrap();
    for id in &all {
        let row = get(pool, &account, &id.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(&row.event_id, id);
    }
    assert!(get(pool, &account, &"unknown".parse().unwrap()).await.unwrap().is_none());

    let (mut told, mut after) = (Vec::new(), Key::at(Time::MIN));
    loop {
        let page = conversation(pool, &account, &"old".parse().unwrap(), after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.key();
        told.extend(ids(&page));
    }
    assert_eq!(told, all[..10].iter().rev().cloned().collect::<Vec<_>>());

    let (mut pages, mut counted, mut after) = (0, 0, Some(Key::at(Time::MIN)));
    while let Some(key) = after {
        let (counts, next) = ledger::page(pool, &account, key, Time::MAX, 4).await.unwrap();
        assert!(next.is_none() || !counts.is_empty(), "nothing was counted, and more may come");
        counted += counts.iter().map(|count| count.count).sum::<i64>();
        (pages, after) = (pages + 1, next);
    }
    assert!(counted == 12 && pages > 3, "{counted} in {pages}");

    for (conversation, expected) in [(None, 5), (Some("old"), 5), (Some("older"), 0)] {
        let filter = replay(conversation);
        let (mut places, mut after) = (Vec::new(), Some(filter.start()));
        while let Some(key) = after {
            let asked = async {
                let mut connection = pool.acquire().await?;
                replays::look(&mut connection, &filter, key, None, 2).await
            };
            // And the one on which nobody was there.
            let look = world.opens(MOST + 1, "replays::look", asked).await;
            places.extend(look.places);
            after = look.next;
        }
        assert!(places.is_sorted_by_key(|place| place.sequence));
        assert_eq!(places.len(), expected, "{conversation:?}");
    }
}

/// Whoever asks for an id that was used again must see the event that an operator has to do something about.
#[tokio::test]
async fn of_an_id_that_was_used_again_the_halted_event_is_told() {
    let world = World::start(DAYS).await;
    let of = |age, state| Old { age, event_id: "twice".to_owned(), state };
    world.record_old(&[of(2, Some(3)), of(20, Some(6)), of(40, None), of(50, Some(3))]).await;
    let told = async || {
        let row =
            get(&world.pool, &"acme".parse().unwrap(), &"twice".parse().unwrap()).await.unwrap().unwrap();
        ((world.start - row.sequence) >> 32, row.state)
    };
    assert_eq!(told().await, (39, 8));
    world.execute("DELETE FROM ingest.parked").await;
    assert_eq!(told().await, (1, 3));
}

/// A lane that had nothing to do for long is looked at in parts.
#[tokio::test]
async fn the_books_of_a_lane_that_slept_are_kept_in_parts() {
    let world = World::start(DAYS).await;
    let old: Vec<Old> =
        [55, 52, 3].map(|age| Old { age, event_id: format!("d{age}"), state: Some(3) }).into();
    world.record_old(&old).await;
    world.record(1).await;
    world.execute(&format!("UPDATE ingest.lanes SET cursor = {} + 1", world.start)).await;
    let mut next = Next { lane: LANE, after: world.start - (55 << 32), room: 10 };
    let (mut events, mut unreachable) = (0, Vec::new());
    loop {
        let next_ones = [next];
        let mut looked = world.opens(MOST, "ledger::look", ledger::look(&world.pool, &next_ones, 3)).await;
        let looked = looked.pop().unwrap();
        assert!(looked.after > next.after);
        events += looked.events;
        unreachable.extend(looked.unreachable);
        next.after = looked.after;
        if !looked.has_more {
            break;
        }
    }
    assert_eq!((events, unreachable), (4, vec![world.start + 1]));
    assert_eq!(ledger::look(&world.pool, &[next], 3).await.unwrap(), []);
}

/// Else a page of which each delivery is of another month would open the partitions of all days between.
#[test]
fn what_lies_far_apart_is_asked_about_apart() {
    let of = [40, 3, 0, 1, 20, 21].map(|day: i64| day << 32);
    let days = |part: Vec<&i64>| part.into_iter().map(|sequence| sequence >> 32).collect::<Vec<_>>();
    let parts: Vec<_> = days::parts(&of, |sequence| *sequence).into_iter().map(days).collect();
    assert_eq!(parts, [vec![0, 1, 3], vec![20, 21], vec![40]]);
    let long: Vec<i64> = (0..40).map(|day| day << 32).collect();
    assert_eq!(
        days::parts(&long, |sequence| *sequence).iter().map(Vec::len).collect::<Vec<_>>(),
        [16, 16, 8]
    );
}

/// A statement about a part opens no more than its days, and those beside it.
#[tokio::test]
async fn parts_follow_each_other_and_have_few_days() {
    let world = World::start(DAYS).await;
    world.prepare_tomorrow().await;
    let pool = &world.pool;
    let days_of = async |part: days::Part| {
        let counted = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM (
                 SELECT first_sequence, lead(first_sequence) OVER (ORDER BY first_sequence) AS next FROM ingest.days
             ) d WHERE first_sequence < $2 AND (next IS NULL OR next > $1)",
        );
        usize::try_from(counted.bind(part.first).bind(part.past).fetch_one(pool).await.unwrap()).unwrap()
    };
    let (mut end, mut first, mut count) = (Time::MAX, i64::MAX, 0);
    while end > Time::MIN {
        let part = days::last(pool, end, days::MOST).await.unwrap();
        assert!(days_of(part).await <= MOST && part.end == end);
        assert!(count == 0 || part.past >= first, "no number between them is left out");
        (end, first, count) = (part.start, part.first, count + 1);
    }
    assert_eq!((first, count), (i64::MIN, 4));
    let (mut start, mut past, mut count) = (Time::MIN, i64::MIN, 0);
    while start < Time::MAX {
        let part = days::first(pool, start, Time::MAX, days::MOST).await.unwrap();
        assert!(days_of(part).await <= MOST && part.start == start && part.first <= past);
        (start, past, count) = (part.end, part.past, count + 1);
    }
    assert_eq!((past, count), (world.start + (1 << 32), 4));
}
