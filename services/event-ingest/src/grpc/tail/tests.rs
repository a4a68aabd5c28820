use chatfn_domain::name::AccountId;
use chatfn_pg::{PoolConfig, testing::TestDatabase};
use chatfn_rpc::ErrorReport;
use sqlx::{AssertSqlSafe, postgres::PgPoolOptions};
use tokio_stream::StreamExt as _;

use super::*;

#[expect(clippy::disallowed_methods, reason = "a pool that never connects")]
fn nowhere() -> Background {
    let url = "postgres://nobody@127.0.0.1:1/none";
    let pool = PgPoolOptions::new().connect_lazy(url).unwrap();
    Background::new(pool, &PoolConfig::new(url.into()))
}

/// A stream that never gets as far as to read the store.
fn tail(responses: Responses) -> Tail {
    let account: AccountId = "acme".parse().unwrap();
    Tail {
        store: nowhere(),
        filter: Filter { account: account.clone(), template: None, conversation_id: None },
        states: Vec::new(),
        list: Default::default(),
        read_to: vec![0; usize::from(LANES.unsigned_abs())],
        followed: BTreeMap::new(),
        looked_at: (0, 0),
        waited: Duration::ZERO,
        responses,
        _entered: Stock::new(1).take(account, 1).unwrap(),
    }
}

#[test]
fn a_stream_rests_as_long_as_it_read() {
    let [short, long] = [20, 700].map(Duration::from_millis);
    assert_eq!([rest(short, None), rest(long, None)], [short, long]);
    assert_eq!([rest(short, Some(PAUSES.0)), rest(long, Some(PAUSES.0))], [PAUSES.0, long]);
    assert_eq!(rest(Duration::MAX, None), LONGEST_REST);
}

/// What a token that is told with a change goes on before, in lane 3.
#[tokio::test]
async fn no_token_passes_what_has_no_outcome_yet_but_what_waits_for_an_operator() {
    let mut tail = tail(mpsc::channel(1).0);
    tail.read_to[3] = 100;
    let place = Place { lane: 3, sequence: 50 };
    let mut told_at = |known, state: DeliveryState, is_behind_halted| {
        tail.followed = Followed::from([((3, 50), known)]);
        let state = State { place, state: i16::try_from(i32::from(state)).unwrap(), is_behind_halted };
        let told = tail.learn(&[place], &[state]) == [place];
        let lanes = usize::from(LANES.unsigned_abs());
        let keys = tail.list.each_ref().map(String::as_str);
        (told, page::numbers(&keys, &tail.token(), lanes).unwrap().unwrap()[3])
    };
    use DeliveryState::{DeadLettered, Halted, Pending, Retrying, Succeeded};
    for known in [Known::New, Known::Found, Known::Told(HALTED), Known::Told(2)] {
        let is_new = |state| known.told() != Some(state);
        assert_eq!(told_at(known, Pending, false), (true, 49), "{known:?}");
        assert_eq!(told_at(known, Retrying, false), (is_new(2), 49), "{known:?}");
        assert_eq!(told_at(known, Halted, false), (is_new(HALTED), 100), "{known:?}");
    }
    assert_eq!(told_at(Known::New, Pending, true), (true, 100), "it is found when the other goes on");
    assert_eq!(told_at(Known::Behind, Pending, true), (false, 100));
    assert_eq!(told_at(Known::Behind, Pending, false), (false, 49));
    assert_eq!(told_at(Known::Told(2), Succeeded, false), (true, 49), "until it has been told");
    assert_eq!(told_at(Known::Found, DeadLettered, false), (true, 100), "as the contract says");
    tail.filter.template = Some("chat.message".parse().unwrap());
    tail.followed = Followed::from([((3, 50), Known::New)]);
    let state = State { place, state: PENDING, is_behind_halted: true };
    assert_eq!(tail.learn(&[place], &[state]), [place]);
    assert!(tail.followed[&(3, 50)].holds(), "what it waits for may not be followed");
    tail.filter.template = None;

    // Since it was looked at, its conversation was resumed.
    tail.followed = Followed::from([((3, 50), Known::Told(HALTED))]);
    tail.learn_told((3, 50), 2);
    assert_eq!(tail.followed[&(3, 50)], Known::Told(2));
    assert_eq!(tail.learn(&[place], &[]), []);
    assert!(tail.followed.is_empty(), "what is gone is not followed");
}

/// Whoever makes up a token, or keeps one for long, has no more read than that.
#[tokio::test]
async fn no_token_goes_back_further_than_the_day_before() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let days = [4, 2, 0].map(|age| format!("(now() AT TIME ZONE 'UTC')::date - {age}"));
    for (day, number) in days.iter().zip(0..) {
        for statement in [
            format!("SELECT ingest.prepare_day({day})"),
            format!("UPDATE ingest.days SET open_time = {day} WHERE day = {day}"),
            format!(
                "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload,
                                            content_hash)
                 VALUES (5, ingest.first_sequence({day}), 'acme', 'e{number}', 'chat.message', 'c{number}', '{{}}', '')"
            ),
            format!("UPDATE ingest.lane_heads SET next_sequence = ingest.first_sequence({day}) + 1 WHERE lane = 5"),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(pool).await.unwrap();
        }
    }
    let list = ["tail", "accounts/acme", "", "", ""];
    let request = TailDeliveriesRequest {
        parent: list[1].to_owned(),
        resume_token: page::numbers_token(&list, &[0; 64]),
        ..TailDeliveriesRequest::default()
    };
    let store = Background::new(pool.clone(), &PoolConfig::new(database.url().clone()));
    let mut stream = Tails::new(store).start(request).await.unwrap();
    let mut told = Vec::new();
    while told.last().is_none_or(|id| id != "e2") {
        let response = stream.next().await.unwrap().unwrap();
        told.extend(response.deliveries.into_iter().map(|delivery| delivery.event_id));
    }
    assert_eq!(told, ["e1", "e2"]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_is_told_so_when_it_does() {
    let (responses, mut stream) = mpsc::channel(1);
    responses.send(Ok(TailDeliveriesResponse::default())).await.unwrap();
    let running = tokio::spawn(tail(responses).run());
    tokio::time::sleep(PATIENCE + Duration::from_secs(1)).await;
    assert!(!running.is_finished(), "it waits to tell why it ends");
    assert!(stream.recv().await.unwrap().is_ok(), "what was there before");
    let report = ErrorReport::from_status(&stream.recv().await.unwrap().unwrap_err());
    assert_eq!(report.reason.as_deref(), Some("TAIL_TOO_SLOW"));
    assert!(stream.recv().await.is_none());
}

#[tokio::test]
async fn of_too_many_those_furthest_behind_are_let_go() {
    let mut tail = tail(mpsc::channel(1).0);
    tail.read_to[3] = 1 << 40;
    let total = i64::try_from(FOLLOWED).unwrap() + 5_000;
    for sequence in 0..total {
        tail.followed
            .insert(if sequence % 2 == 0 { (3, (1 << 40) - sequence) } else { (4, -sequence) }, Known::New);
    }
    tail.let_go();
    assert_eq!(tail.followed.len(), FOLLOWED);
    let furthest = tail.followed.keys().map(
        |(lane, sequence)| {
            if *lane == 3 { (1 << 40) - sequence } else { -sequence }
        },
    );
    assert_eq!(furthest.max(), Some(i64::try_from(FOLLOWED).unwrap() - 1));
}

async fn ends_when_nothing_answers(table: &str, is_resumed: bool) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let day = "(now() AT TIME ZONE 'UTC')::date";
    for statement in [
        format!("SELECT ingest.prepare_day({day})"),
        format!(
            "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload,
                                        content_hash)
             VALUES (5, ingest.first_sequence({day}) + 1, 'acme', 'e', 'chat.message', 'c', '{{}}', '')"
        ),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(pool).await.unwrap();
    }
    let short = Duration::from_millis(500);
    let config = PoolConfig {
        acquire_timeout: short,
        statement_timeout: short,
        ..PoolConfig::new(database.url().clone())
    };
    let request =
        TailDeliveriesRequest { parent: "accounts/acme".to_owned(), ..TailDeliveriesRequest::default() };
    let tails = Tails::new(Background::new(pool.clone(), &config));
    let mut stream = tails.start(request.clone()).await.unwrap();
    let token = stream.next().await.unwrap().unwrap().resume_token;
    let mut locking = pool.begin().await.unwrap();
    let lock = AssertSqlSafe(format!("LOCK TABLE ingest.{table} IN ACCESS EXCLUSIVE MODE"));
    sqlx::query(lock).execute(&mut *locking).await.unwrap();
    if table != "lane_heads" {
        let heads = format!("UPDATE ingest.lane_heads SET next_sequence = ingest.first_sequence({day}) + 2");
        sqlx::query(AssertSqlSafe(heads)).execute(pool).await.unwrap();
    }
    let end = async {
        if is_resumed {
            tails.start(TailDeliveriesRequest { resume_token: token, ..request }).await.map(|_| ())
        } else {
            stream.next().await.unwrap().map(|_| ())
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(60), end).await.expect("it must end");
    let report = ErrorReport::from_status(&end.unwrap_err());
    assert_eq!(report.reason.as_deref(), Some("STORE_UNAVAILABLE"), "{table}");
    drop(locking);
}

/// As over a connection that has died.
#[tokio::test]
async fn a_stream_ends_when_the_store_falls_silent() {
    // Which of its statements gets no answer.
    for table in ["lane_heads", "events", "parked", "superseded"] {
        ends_when_nothing_answers(table, false).await;
    }
    ends_when_nothing_answers("parked", true).await;
}
