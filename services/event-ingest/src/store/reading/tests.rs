use super::{
    super::{
        days::MOST,
        interventions::{self, Action},
        tail,
        testing::{DAYS, EPOCH, LANE, World},
    },
    *,
};

impl World {
    fn resume(&self, to: i64, looked_at: i64) -> Resume {
        Resume {
            account: "acme".parse().unwrap(),
            conversation_id: "c".parse().unwrap(),
            from: self.start + 1,
            to: self.start + to,
            looked_at,
            rows: 16,
            bytes: 1024,
        }
    }
}

fn numbers(world: &World, events: &[StoredEvent]) -> Vec<i64> {
    events.iter().map(|event| event.sequence - world.start).collect()
}

/// A lane asks all the time: what that costs must not rise with the days that are kept.
#[tokio::test]
async fn what_is_asked_about_events_of_one_day_opens_the_partitions_of_that_day() {
    let world = World::start(DAYS).await;
    let (pool, start) = (&world.pool, world.start);
    world.record(4).await;
    world.finish(1, 1).await;
    for statement in [
        "INSERT INTO ingest.attempts (lane, sequence, number, epoch) VALUES ({lane}, {second}, 1, 0)",
        "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, kind, next_attempt_time)
         VALUES ({lane}, {second}, 'acme', 'c', 1, now())",
        "INSERT INTO ingest.interventions (lane, sequence, action, actor) VALUES ({lane}, {second} - 1, 1, 'a replay')",
    ] {
        let statement = statement.replace("{lane}", &LANE.to_string());
        world.execute(&statement.replace("{second}", &(start + 2).to_string())).await;
    }
    interventions::ask(pool, LANE, start + 2, Action::Resume, "me").await.unwrap();

    let range = Range {
        lane: LANE,
        epoch: EPOCH,
        after: start,
        to: start + 4,
        newest: start + 4,
        rows: 16,
        bytes: 1024,
        fresh_from: i64::MAX,
    };
    let (events, to) = world.opens_today("scan", scan(pool, range)).await;
    assert_eq!((numbers(&world, &events), to), (vec![2, 3, 4], start + 4));
    assert!(events[0].died && events[0].attempts == 1);
    let fresh = Range { fresh_from: start, ..range };
    let (events, _) = world.opens_today("scan of what is fresh", scan(pool, fresh)).await;
    assert_eq!(numbers(&world, &events), [2, 3, 4]);
    let nothing = Range { to: start + 1, ..range };
    assert_eq!(world.opens_today("scan of nothing", scan(pool, nothing)).await.1, start + 1);

    for looked_at in [16, 3] {
        let wanted = [world.resume(4, looked_at)];
        let resumed = world.opens_today("resume", resume(pool, LANE, EPOCH, &wanted)).await;
        assert_eq!(numbers(&world, &resumed[0].events), (2..=4.min(looked_at)).collect::<Vec<_>>());
        assert!(resumed[0].events[0].died && resumed[0].events[0].attempts == 1);
    }

    let waits = world.opens_today("parked", parked(pool, LANE, EPOCH, 0, 16)).await;
    assert!(
        matches!(&waits[..], [event] if event.sequence == start + 2 && event.died && event.attempts == 1)
    );
    let part = Part { lane: LANE, from: start + 1, to: start + 4, looked_at: 16, rows: 16 };
    let account = "acme".parse().unwrap();
    let passed = world.opens_today("passed_over", passed_over(pool, &account, part)).await;
    assert_eq!(passed.events.len(), 3);

    let next = world.opens_today("ahead", ahead(pool, LANE, start + 1, start + 4, 16)).await;
    assert_eq!((&next.accounts[..], next.looked_to), (&[(account.clone(), start + 2)][..], start + 4));
    assert_eq!(ahead(pool, LANE, start + 1, start + 4, 2).await.unwrap().looked_to, start + 3);

    let pending = interventions::pending(pool, LANE, start + 4, 16);
    let asked = world.opens_today("interventions::pending", pending).await;
    let wanted: Vec<_> =
        asked.iter().map(|it| (it.sequence - start, it.wanted.as_ref().unwrap().0)).collect();
    assert_eq!(wanted, [(2, Action::Resume), (1, Action::Replay)], "what operators ask comes first");

    let mut filter = tail::Filter {
        account,
        template: Some("chat.message".parse().unwrap()),
        conversation_id: Some("c".parse().unwrap()),
    };
    let parts = [tail::Part { lane: LANE, after: start, to: start + 4 }];
    world.opens_today("tail::shortened", tail::shortened(pool, &parts, 2)).await;
    let places = world.opens_today("tail::accepted", tail::accepted(pool, &filter, &parts)).await;
    assert_eq!(places.len(), 4);
    let halted = world.opens_today("tail::waiting", tail::waiting(pool, &filter, 16)).await;
    assert!(matches!(halted[..], [(place, true)] if place == places[1]), "{halted:?}");
    let behind = tail::behind(pool, &filter, &places[1..2], 16);
    assert_eq!(world.opens_today("tail::behind", behind).await, places[2..]);
    let states = world.opens_today("tail::states", tail::states(pool, &places)).await;
    assert_eq!(states.iter().map(|it| it.state).collect::<Vec<_>>(), [3, 8, 1, 1]);
    filter.template = Some("chat.other".parse().unwrap());
    assert_eq!(world.opens_today("tail::waiting", tail::waiting(pool, &filter, 16)).await, []);
}

/// What has waited for an operator for weeks must not cost what lies between.
#[tokio::test]
async fn what_is_asked_about_days_far_apart_opens_the_partitions_of_those_days() {
    let world = World::start(DAYS).await;
    let pool = &world.pool;
    let starts = [world.start - (40 << 32), world.start - (20 << 32), world.start];
    for (number, start) in starts.into_iter().enumerate() {
        let conversation = format!("c{number}");
        world.record_after(start, 2, &conversation, &conversation).await;
        world
            .execute(&format!(
                "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, kind, next_attempt_time)
                 VALUES ({LANE}, {start} + 1, 'acme', 'c{number}', 1, now())"
            ))
            .await;
        interventions::ask(pool, LANE, start + 1, Action::Resume, "me").await.unwrap();
    }
    let firsts = starts.map(|start| start + 1);

    let pending = interventions::pending(pool, LANE, world.start + 2, 16);
    let asked = world.opens(3, "interventions::pending", pending).await;
    assert_eq!(asked.iter().map(|it| it.sequence).collect::<Vec<_>>(), firsts, "as it was asked for");
    assert!(asked.iter().all(|it| it.wanted.is_some()));

    let filter = tail::Filter {
        account: "acme".parse().unwrap(),
        template: Some("chat.message".parse().unwrap()),
        conversation_id: None,
    };
    let halted = world.opens(3, "tail::waiting", tail::waiting(pool, &filter, 16)).await;
    let places: Vec<_> = halted.into_iter().map(|(place, _)| place).collect();
    assert_eq!(places.iter().rev().map(|it| it.sequence).collect::<Vec<_>>(), firsts, "the newest first");
    let states = world.opens(3, "tail::states", tail::states(pool, &places)).await;
    assert_eq!(states.iter().map(|it| it.state).collect::<Vec<_>>(), [8, 8, 8]);

    // Only the event itself, as after a failure; and what follows.
    let wanted = |number: usize, to: i64, rows: i64| Resume {
        conversation_id: format!("c{number}").parse().unwrap(),
        from: firsts[number],
        to,
        rows,
        ..world.resume(0, 100)
    };
    let heads = [2, 0, 1].map(|number| wanted(number, firsts[number], 1));
    let resumed = world.opens(3, "resume", resume(pool, LANE, EPOCH, &heads)).await;
    let found = resumed.iter().map(|it| it.events[0].sequence).collect::<Vec<_>>();
    assert_eq!(found, [2, 0, 1].map(|number| firsts[number]));
    let all = [wanted(0, world.start + 2, 16)];
    let most = usize::try_from(MOST).unwrap() + 1;
    let resumed = world.opens(most, "resume of what follows", resume(pool, LANE, EPOCH, &all)).await;
    assert_eq!((resumed[0].events.len(), resumed[0].is_complete), (2, false));
    let rest = [Resume { from: resumed[0].looked_to + 1, ..wanted(0, world.start + 2, 16) }];
    let resumed = resume(pool, LANE, EPOCH, &rest).await.unwrap();
    assert!(resumed[0].events.is_empty() && !resumed[0].is_complete && resumed[0].looked_to > rest[0].from);
}

/// Else a conversation with more finished events than can be looked at in time would never go on.
#[tokio::test]
async fn a_long_conversation_is_looked_at_in_parts() {
    let world = World::start(1).await;
    let pool = &world.pool;
    world.record(10).await;
    world.finish(1, 7).await;
    let mut wanted = world.resume(10, 3);
    let mut looked = Vec::new();
    loop {
        // Beside one that needs no more than one look.
        let both = [wanted.clone(), Resume { from: world.start + 9, looked_at: 100, ..wanted.clone() }];
        let [part, other] = resume(pool, LANE, EPOCH, &both).await.unwrap().try_into().unwrap();
        assert_eq!((numbers(&world, &other.events), other.is_complete), (vec![9, 10], true));
        looked.push((numbers(&world, &part.events), part.looked_to - world.start, part.is_complete));
        if part.is_complete {
            break;
        }
        wanted.from = part.looked_to + 1;
    }
    assert_eq!(
        looked,
        [(vec![], 3, false), (vec![], 6, false), (vec![8, 9], 9, false), (vec![10], 10, true)]
    );
}
