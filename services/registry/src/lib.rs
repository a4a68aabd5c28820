//! The control plane: templates, functions, versions and deployments.
