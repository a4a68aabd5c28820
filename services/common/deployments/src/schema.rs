//! Payloads against the schemas of their templates.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use chatfn_domain::name::TemplateName;
use jsonschema::Validator;
use serde_json::Value;

use crate::Template;

/// Problems that are listed; a payload of another kind would break most rules of a schema.
const MAX_PROBLEMS: usize = 16;

/// Compiled schemas, each compiled again only when its template changes. Holds as many as there are templates.
#[derive(Debug, Default)]
pub struct Schemas {
    compiled: RwLock<HashMap<TemplateName, Compiled>>,
}

/// Where a payload does not satisfy the schema of its template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaProblem {
    /// The field, for example `payload.survey.answers[2]`.
    pub field: String,
    /// What the schema demands. Values of the payload are masked: what people say in a chat has no place in errors, which end
    /// up in logs.
    pub description: String,
}

#[derive(Debug, Clone)]
struct Compiled {
    template: Arc<Template>,
    validator: Arc<Validator>,
}

impl Schemas {
    /// Checks a payload against the schema of `template`: at most 16 problems, none when it satisfies it.
    ///
    /// # Errors
    /// The schema itself is none.
    pub fn check(
        &self,
        template: &Arc<Template>,
        payload: &Value,
    ) -> Result<Vec<SchemaProblem>, SchemaError> {
        let validator = self.compiled(template)?;
        let problems = validator.iter_errors(payload).take(MAX_PROBLEMS).map(|problem| SchemaProblem {
            field: field(problem.instance_path().as_str()),
            description: problem.masked().to_string(),
        });
        Ok(problems.collect())
    }

    fn compiled(&self, template: &Arc<Template>) -> Result<Arc<Validator>, SchemaError> {
        let known = self.compiled.read().unwrap_or_else(PoisonError::into_inner).get(&template.name).cloned();
        if let Some(known) = known.filter(|known| Arc::ptr_eq(&known.template, template)) {
            return Ok(known.validator);
        }
        let validator = Arc::new(compile(template)?);
        let entry = Compiled { template: template.clone(), validator: validator.clone() };
        self.compiled.write().unwrap_or_else(PoisonError::into_inner).insert(template.name.clone(), entry);
        Ok(validator)
    }
}

/// A template whose schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the schema of template {template} cannot be used; correct it in the registry: {problem}")]
pub struct SchemaError {
    template: TemplateName,
    problem: String,
}

fn compile(template: &Template) -> Result<Validator, SchemaError> {
    let error = |problem: String| SchemaError { template: template.name.clone(), problem };
    let schema = serde_json::from_str(&template.payload_schema_json).map_err(|e| error(e.to_string()))?;
    jsonschema::validator_for(&schema).map_err(|e| error(e.to_string()))
}

/// `payload.survey.answers[2]` from the JSON pointer `/survey/answers/2`.
fn field(pointer: &str) -> String {
    pointer.split('/').skip(1).fold("payload".to_owned(), |mut path, step| {
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
    use serde_json::json;

    use super::*;

    fn template(schema: Value) -> Arc<Template> {
        Arc::new(Template {
            name: "chat.start".parse().unwrap(),
            payload_schema_json: schema.to_string(),
            sample_payload_json: "{}".to_owned(),
            fires_once: true,
        })
    }

    #[test]
    fn problems_name_their_fields_and_hide_values() {
        let template = template(json!({
            "required": ["conversation"],
            "properties": {"survey": {"items": {"properties": {"a": {"type": "string"}}}}}
        }));
        let payload = json!({"survey": [{"a": "x"}, {"a": 4711}]});
        let problems = Schemas::default().check(&template, &payload).unwrap();
        let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields.len(), 2, "{fields:?}");
        assert!(fields.contains(&"payload") && fields.contains(&"payload.survey[1].a"), "{fields:?}");
        assert!(!format!("{problems:?}").contains("4711"), "{problems:?}");
    }

    #[test]
    fn a_changed_template_is_compiled_again() {
        let schemas = Schemas::default();
        assert_eq!(schemas.check(&template(json!({"required": ["a"]})), &json!({})).unwrap().len(), 1);
        assert_eq!(schemas.check(&template(json!({})), &json!({})), Ok(Vec::new()));
    }

    #[test]
    fn a_schema_that_is_none_is_an_error() {
        let error = Schemas::default().check(&template(json!({"type": 7})), &json!({})).unwrap_err();
        assert!(error.to_string().contains("chat.start"), "{error}");
    }

    #[test]
    fn many_problems_are_bounded() {
        let template = template(json!({"additionalProperties": {"type": "string"}}));
        let payload = (0..1000).map(|n| (format!("k{n}"), Value::from(n))).collect();
        assert!(Schemas::default().check(&template, &payload).unwrap().len() <= MAX_PROBLEMS);
    }
}
