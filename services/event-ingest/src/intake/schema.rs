//! Payloads against the schemas of their templates.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use chatfn_deployments::Template;
use chatfn_domain::name::TemplateName;
use chatfn_rpc::ApiError;
use jsonschema::Validator;
use serde_json::Value;

/// Violations that are listed; a payload of another kind would break most rules of a schema.
const MAX_VIOLATIONS: usize = 16;

/// Compiled schemas, each compiled again only when its template changes. Holds as many as there are templates.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    compiled: RwLock<HashMap<TemplateName, Compiled>>,
}

#[derive(Debug, Clone)]
struct Compiled {
    template: Arc<Template>,
    validator: Arc<Validator>,
}

impl Schemas {
    /// Checks a payload against the schema of `template`.
    ///
    /// # Errors
    /// `PAYLOAD_SCHEMA`, naming up to 16 fields below `event.payload`; INTERNAL if the schema is none.
    pub(super) fn check(&self, template: &Arc<Template>, payload: &Value) -> Result<(), ApiError> {
        let validator = self.compiled(template)?;
        let mut violations = validator.iter_errors(payload).take(MAX_VIOLATIONS).peekable();
        if violations.peek().is_none() {
            return Ok(());
        }
        let message = format!("the payload does not satisfy the schema of {}", template.name);
        let error = ApiError::invalid_argument("PAYLOAD_SCHEMA", message);
        // Masked: what people say in a chat has no place in errors, which end up in logs.
        Err(violations.fold(error, |error, violation| {
            error.field(field(violation.instance_path().as_str()), violation.masked().to_string())
        }))
    }

    fn compiled(&self, template: &Arc<Template>) -> Result<Arc<Validator>, ApiError> {
        let known = self.compiled.read().unwrap_or_else(PoisonError::into_inner).get(&template.name).cloned();
        if let Some(known) = known.filter(|known| Arc::ptr_eq(&known.template, template)) {
            return Ok(known.validator);
        }
        let validator = Arc::new(compile(template).map_err(ApiError::internal)?);
        let entry = Compiled { template: template.clone(), validator: validator.clone() };
        self.compiled.write().unwrap_or_else(PoisonError::into_inner).insert(template.name.clone(), entry);
        Ok(validator)
    }
}

/// A template whose schema cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the schema of template {template} cannot be used; correct it in the registry: {problem}")]
struct SchemaError {
    template: TemplateName,
    problem: String,
}

fn compile(template: &Template) -> Result<Validator, SchemaError> {
    let error = |problem: String| SchemaError { template: template.name.clone(), problem };
    let schema = serde_json::from_str(&template.payload_schema_json).map_err(|e| error(e.to_string()))?;
    jsonschema::validator_for(&schema).map_err(|e| error(e.to_string()))
}

/// `event.payload.survey.answers[2]` from the JSON pointer `/survey/answers/2`.
fn field(pointer: &str) -> String {
    pointer.split('/').skip(1).fold("event.payload".to_owned(), |mut path, step| {
        if !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()) {
            path.push_str(&format!("[{step}]"));
        } else {
            path.push('.');
            path.push_str(&step.replace("~1", "/").replace("~0", "~"));
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use chatfn_rpc::ErrorReport;
    use serde_json::json;

    use super::*;

    fn template(schema: Value) -> Arc<Template> {
        Arc::new(Template {
            name: "chat.start".parse().unwrap(),
            payload_schema_json: schema.to_string(),
            fires_once: true,
        })
    }

    #[test]
    fn violations_name_their_fields_and_hide_values() {
        let template = template(json!({
            "required": ["conversation"],
            "properties": {"survey": {"items": {"properties": {"a": {"type": "string"}}}}}
        }));
        let payload = json!({"survey": [{"a": "x"}, {"a": 4711}]});
        let error = Schemas::default().check(&template, &payload).unwrap_err();
        let report = ErrorReport::from_status(&error.into());
        assert_eq!(report.reason.as_deref(), Some("PAYLOAD_SCHEMA"));
        let fields: Vec<_> = report.fields.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields.len(), 2, "{fields:?}");
        assert!(
            fields.contains(&"event.payload") && fields.contains(&"event.payload.survey[1].a"),
            "{fields:?}"
        );
        assert!(!format!("{report:?}").contains("4711"), "{report:?}");
    }

    #[test]
    fn a_changed_template_is_compiled_again() {
        let schemas = Schemas::default();
        assert!(schemas.check(&template(json!({"required": ["a"]})), &json!({})).is_err());
        assert!(schemas.check(&template(json!({})), &json!({})).is_ok());
    }

    #[test]
    fn many_violations_are_bounded() {
        let template = template(json!({"additionalProperties": {"type": "string"}}));
        let payload = (0..1000).map(|n| (format!("k{n}"), Value::from(n))).collect();
        let error = Schemas::default().check(&template, &payload).unwrap_err();
        assert!(ErrorReport::from_status(&error.into()).fields.len() <= MAX_VIOLATIONS + 1);
    }
}
