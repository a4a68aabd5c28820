//! The catalogue.

use chatfn_proto::registry::v1::{Firing, GetTemplateRequest, ListTemplatesRequest};
use tonic::Code;

use crate::harness::{World, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalogue_can_be_listed_and_got() {
    let world = World::start().await;
    let mut client = world.registry.templates();
    let templates = client.list_templates(ListTemplatesRequest {}).await.unwrap().into_inner().templates;
    let names: Vec<_> = templates.iter().map(|template| template.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "templates/chat.end",
            "templates/chat.in_queue",
            "templates/chat.participants_change",
            "templates/chat.post_survey_email_transcript",
            "templates/chat.start",
            "templates/messaging.consumer_step_up",
            "templates/messaging.conversation_end",
            "templates/messaging.conversation_idle",
            "templates/messaging.conversation_routing",
            "templates/messaging.line_in_off_hours",
            "templates/messaging.new_conversation",
            "templates/messaging.participants_change",
            "templates/messaging.survey_ended",
            "templates/messaging.survey_started",
            "templates/messaging.ttr",
        ]
    );
    for template in templates {
        let request = GetTemplateRequest { name: template.name.clone() };
        let got = client.get_template(request).await.unwrap().into_inner().template;
        assert_eq!(got, Some(template));
    }
    let request = GetTemplateRequest { name: "templates/chat.start".into() };
    let start = client.get_template(request).await.unwrap().into_inner().template.unwrap();
    assert_eq!(start.firing(), Firing::OncePerConversation);
    assert!(start.starter_source.contains("async function lambda(input, context)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_is_unknown_or_no_template_is_refused() {
    let world = World::start().await;
    let mut client = world.registry.templates();
    let mut get = async |name: &str| client.get_template(GetTemplateRequest { name: name.into() }).await;
    let report = refused(get("templates/chat.idle").await, Code::NotFound, "TEMPLATE_NOT_FOUND");
    assert_eq!(report.resource.unwrap().name, "templates/chat.idle");
    for bad in ["", "chat.start", "templates/", "templates/Chat", "templates/chat.start/x"] {
        let report = refused(get(bad).await, Code::InvalidArgument, "INVALID_REQUEST");
        assert_eq!(report.fields[0].field, "name", "{bad}");
    }
}
