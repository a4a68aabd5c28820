//! The account of events, page by page.

use chatfn_proto::ingest::v1::{
    DeliveryState, Event, GetConversationRequest, GetDeliveryRequest, ListDeliveriesRequest,
    ListDeliveriesResponse,
};
use sqlx::PgPool;
use tonic::{Code, Status};

use crate::{
    harness::{START, UNUSED, World, event, refused, settings},
    invoker::Answer,
};

async fn list(world: &World, request: ListDeliveriesRequest) -> Result<ListDeliveriesResponse, Status> {
    Ok(world.replica.deliveries().list_deliveries(request).await?.into_inner())
}

fn request(page_size: i32, state: DeliveryState, template: &str) -> ListDeliveriesRequest {
    ListDeliveriesRequest {
        parent: "accounts/acme".to_owned(),
        page_size,
        page_token: String::new(),
        state: state.into(),
        template: template.to_owned(),
        include_logs: false,
    }
}

/// Ids on all pages, and the sizes of the pages.
async fn pages(world: &World, mut request: ListDeliveriesRequest) -> (Vec<String>, Vec<usize>) {
    let (mut ids, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let page = list(world, request.clone()).await.unwrap();
        sizes.push(page.deliveries.len());
        ids.extend(page.deliveries.into_iter().map(|delivery| delivery.event_id));
        if page.next_page_token.is_empty() {
            return (ids, sizes);
        }
        request.page_token = page.next_page_token;
    }
}

/// 25 events in an order of acceptance that is known: calls one after the other.
async fn world() -> (World, Vec<String>) {
    let mut settings = settings(2);
    settings.retry.initial_backoff = std::time::Duration::from_secs(600);
    settings.retry.max_backoff = settings.retry.initial_backoff;
    let world = World::start_with(settings, |_| {}).await;
    let ids: Vec<String> = (0..25).map(|n| format!("e{n:02}")).collect();
    for (n, id) in ids.iter().enumerate() {
        let template = match n % 5 {
            0 => UNUSED,
            1 => START,
            _ => "chat.message",
        };
        // e01 fires, and the other starts of conversation c are suppressed; e02 waits for its second attempt.
        let conversation = if n % 5 == 1 { "c".to_owned() } else { format!("c{n}") };
        if n == 2 {
            world.invoker.script(id, [Answer::Throws]);
        }
        let sent = Event { template: template.to_owned(), ..event(&conversation, id) };
        world.replica.publish(sent).await.unwrap();
        let state = match n {
            2 => DeliveryState::Retrying,
            _ if n % 5 == 0 => DeliveryState::NoFunction,
            _ if n % 5 == 1 && n > 1 => DeliveryState::Suppressed,
            _ => DeliveryState::Succeeded,
        };
        world.replica.reaches(id, state).await;
    }
    (world, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_from_new_to_old_and_filter() {
    let (world, ids) = world().await;
    let of = |filter: &dyn Fn(usize) -> bool| -> Vec<String> {
        (0..25).rev().filter(|n| filter(*n)).map(|n| ids[n].clone()).collect()
    };
    let any = DeliveryState::Unspecified;
    let (all, sizes) = pages(&world, request(10, any, "")).await;
    assert_eq!(all, of(&|_| true));
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(pages(&world, request(0, any, "")).await.0, all);
    assert_eq!(pages(&world, request(2, DeliveryState::NoFunction, "")).await.0, of(&|n| n % 5 == 0));
    assert_eq!(
        pages(&world, request(2, DeliveryState::Suppressed, "")).await.0,
        of(&|n| n % 5 == 1 && n > 1)
    );
    assert_eq!(pages(&world, request(2, DeliveryState::Retrying, "")).await.0, ["e02"]);
    assert_eq!(pages(&world, request(3, any, START)).await.0, of(&|n| n % 5 == 1));
    let succeeded = of(&|n| n == 1 || n != 2 && n % 5 > 1);
    assert_eq!(pages(&world, request(4, DeliveryState::Succeeded, "")).await.0, succeeded);
    assert_eq!(pages(&world, request(4, DeliveryState::Succeeded, START)).await.0, ["e01"]);
    assert_eq!(pages(&world, request(4, DeliveryState::Suppressed, UNUSED)).await.0, Vec::<String>::new());
    assert_eq!(pages(&world, request(4, DeliveryState::Pending, "")).await.0, Vec::<String>::new());
    let nobody = ListDeliveriesRequest { parent: "accounts/nobody".to_owned(), ..request(4, any, "") };
    assert_eq!(pages(&world, nobody).await.0, Vec::<String>::new());
}

/// Records many events, each in a conversation of its own, with numbers that no lane gives; one of them is of another template.
async fn record_old(pool: &PgPool, unused: i32) {
    let events = "INSERT INTO ingest.events (lane, sequence, accept_time, account, event_id, template, conversation_id,
                                             payload, content_hash)
                  SELECT 0, (SELECT max(first_sequence) FROM ingest.days WHERE open_time IS NOT NULL) + (1::bigint << 31) + n,
                         now() + n * interval '1 microsecond', 'acme', 'old' || n,
                         CASE n WHEN $1 THEN 'chat.unused' ELSE 'chat.message' END, 'old' || n, '{}', ''
                  FROM generate_series(0, 11000) n";
    sqlx::query(events).bind(unused).execute(pool).await.unwrap();
}

/// One that is looked for among the many of its state must not take its caller's whole time.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_looks_at_so_many_outcomes_and_says_where_to_go_on() {
    let world = World::start().await;
    let pool = world.database.pool();
    record_old(pool, 0).await;
    let outcomes = "INSERT INTO ingest.outcomes (lane, sequence, accept_time, account, state, epoch)
                    SELECT lane, sequence, accept_time, account, 4, 0 FROM ingest.events WHERE event_id LIKE 'old%'";
    sqlx::query(outcomes).execute(pool).await.unwrap();
    let (ids, sizes) = pages(&world, request(5, DeliveryState::NoFunction, UNUSED)).await;
    assert_eq!((ids, sizes), (vec!["old0".to_owned()], vec![0, 0, 1]));
    let first = list(&world, request(5, DeliveryState::NoFunction, "chat.message")).await.unwrap();
    let ids: Vec<&str> = first.deliveries.iter().map(|delivery| delivery.event_id.as_str()).collect();
    assert_eq!(ids, ["old11000", "old10999", "old10998", "old10997", "old10996"]);
}

/// What is parked is listed by itself, unless it is more than a page may look at.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_halted_is_listed_however_much_it_is() {
    let world = World::start().await;
    let pool = world.database.pool();
    record_old(pool, 7).await;
    // The newer ones wait for nobody.
    let parked =
        "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, kind, next_attempt_time)
                  SELECT lane, sequence, account, conversation_id, 1, now() FROM ingest.events
                  WHERE event_id LIKE 'old%' ORDER BY sequence LIMIT 5001";
    sqlx::query(parked).execute(pool).await.unwrap();
    let halted = DeliveryState::Halted;
    let mut expected: Vec<String> = (0..=5000).rev().map(|n| format!("old{n}")).collect();
    let (ids, sizes) = pages(&world, request(200, halted, "")).await;
    assert_eq!((&ids, sizes[0]), (&expected, 200), "it looks at more until it finds some");
    assert_eq!(pages(&world, request(200, halted, UNUSED)).await.0, ["old7"]);

    sqlx::query("DELETE FROM ingest.parked WHERE conversation_id = 'old5000'").execute(pool).await.unwrap();
    expected.remove(0);
    let (ids, sizes) = pages(&world, request(200, halted, "")).await;
    assert_eq!((ids, sizes[0]), (expected, 200));
    assert_eq!(pages(&world, request(200, halted, UNUSED)).await, (vec!["old7".to_owned()], vec![1]));
    assert_eq!(pages(&world, request(5, DeliveryState::Retrying, "")).await, (vec![], vec![0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_holds_for_its_list_only() {
    let (world, _) = world().await;
    let any = DeliveryState::Unspecified;
    let token = list(&world, request(5, any, "")).await.unwrap().next_page_token;
    assert!(!token.is_empty());
    let with = |token: &str, mut request: ListDeliveriesRequest| {
        request.page_token = token.to_owned();
        request
    };
    assert!(list(&world, with(&token, request(7, any, ""))).await.is_ok(), "another page size is fine");
    let mut tampered = token.clone().into_bytes();
    let last = tampered.last_mut().unwrap();
    *last = if *last == b'0' { b'1' } else { b'0' };
    let tampered = String::from_utf8(tampered).unwrap();
    let foreign = ListDeliveriesRequest { parent: "accounts/other".to_owned(), ..request(5, any, "") };
    for request in [
        with(&tampered, request(5, any, "")),
        with("nonsense", request(5, any, "")),
        with(&token, request(5, DeliveryState::Succeeded, "")),
        with(&token, request(5, any, START)),
        with(&token, foreign),
    ] {
        let report = refused(list(&world, request).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
        assert_eq!(report.fields[0].field, "page_token");
    }
    let request = GetConversationRequest {
        name: "accounts/acme/conversations/c".to_owned(),
        page_token: token,
        ..Default::default()
    };
    let answer = world.replica.deliveries().get_conversation(request).await;
    refused(answer, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_told_in_its_order() {
    let world = World::start().await;
    let ids: Vec<String> = (0..7).map(|n| format!("e{n}")).collect();
    for id in &ids {
        world.replica.publish(event("c", id)).await.unwrap();
        world.replica.publish(event("other", &format!("other-{id}"))).await.unwrap();
    }
    world.replica.reaches("e6", DeliveryState::Succeeded).await;
    let mut request = GetConversationRequest {
        name: "accounts/acme/conversations/c".to_owned(),
        page_size: 3,
        ..Default::default()
    };
    let (mut told, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let page = world.replica.deliveries().get_conversation(request.clone()).await.unwrap().into_inner();
        sizes.push(page.deliveries.len());
        told.extend(page.deliveries);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(sizes, [3, 3, 1]);
    assert_eq!(told.iter().map(|delivery| delivery.event_id.as_str()).collect::<Vec<_>>(), ids);
    assert!(told.is_sorted_by_key(|delivery| delivery.sequence));
    assert!(told.iter().all(|delivery| delivery.attempts.len() == 1));

    request.name = "accounts/acme/conversations/unknown".to_owned();
    request.page_token = String::new();
    let empty = world.replica.deliveries().get_conversation(request).await.unwrap().into_inner();
    assert!(empty.deliveries.is_empty() && empty.next_page_token.is_empty());
    let name = "accounts/other/deliveries/e0".to_owned();
    let foreign = world.replica.deliveries().get_delivery(GetDeliveryRequest { name }).await;
    refused(foreign, Code::NotFound, "DELIVERY_NOT_FOUND");
}
