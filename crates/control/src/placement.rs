//! Which tier, template and limits a sandbox gets on a host.

use crate::check;
use isopod_model::{
    Error, Result,
    limits::Limits,
    sandbox::{CreateSandbox, Tier, TierRequest},
};
use isopod_node_api::HostReport;

/// What was decided.
#[derive(Debug, PartialEq)]
pub(crate) struct Placement {
    pub(crate) tier: Tier,
    /// As asked for.
    pub(crate) template: String,
    /// As it exists on the host.
    pub(crate) resolved_template: String,
    pub(crate) limits: Limits,
}

/// Decides from what the caller asks and what the host offers.
pub(crate) fn place(
    request: &CreateSandbox,
    default_template: &str,
    report: &HostReport,
) -> Result<Placement> {
    let template = request.template.as_deref().unwrap_or(default_template);
    let instance_type = request.instance_type.unwrap_or_default();
    let limits = instance_type.limits().overridden(request.limits.unwrap_or_default());
    limits.check(report.most)?;
    Ok(Placement {
        tier: tier(request.tier, report)?,
        template: template.to_owned(),
        resolved_template: resolve(template, report)?,
        limits,
    })
}

/// Checks that the host offers a tier.
pub(crate) fn check_tier(tier: Tier, report: &HostReport) -> Result<()> {
    match report.tiers.iter().find(|offer| offer.tier == tier) {
        Some(offer) if offer.available => Ok(()),
        Some(offer) => Err(Error::TierUnavailable { tier, reason: offer.reason.clone() }),
        None => Err(Error::TierUnavailable { tier, reason: "this host does not know it".to_owned() }),
    }
}

fn tier(request: TierRequest, report: &HostReport) -> Result<Tier> {
    let tier = match request {
        TierRequest::Wasm => Tier::Wasm,
        TierRequest::Container => Tier::Container,
        TierRequest::Microvm => Tier::Microvm,
        TierRequest::Auto => {
            let available = report.tiers.iter().filter(|offer| offer.available).map(|offer| offer.tier);
            // With none available, the reason that the container tier has is the one that helps most.
            available.min().unwrap_or(Tier::Container)
        }
    };
    check_tier(tier, report).map(|()| tier)
}

fn resolve(template: &str, report: &HostReport) -> Result<String> {
    let exists = |name: &str| report.templates.contains_key(name);
    if exists(template) {
        Ok(template.to_owned())
    } else if template == "base" && exists("host") {
        Ok("host".to_owned())
    } else {
        let available: Vec<&str> = report.templates.keys().map(String::as_str).collect();
        let reason = format!("{:?} is unknown; available: {}", check::shown(template), available.join(", "));
        Err(Error::invalid("template", reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_model::limits::InstanceType;
    use isopod_node_api::TierReport;

    fn report(available: &[Tier]) -> HostReport {
        let offer = |tier| TierReport { tier, available: available.contains(&tier), reason: "why".into() };
        HostReport {
            tiers: Tier::ALL.into_iter().rev().map(offer).collect(),
            checks: vec![],
            most: InstanceType::Standard.limits(),
            max_sandboxes: 1,
            templates: [("host".to_owned(), String::new()), ("py".to_owned(), String::new())].into(),
        }
    }

    #[test]
    fn the_lightest_tier_that_is_there_is_taken() {
        let auto = |available: &[Tier]| tier(TierRequest::Auto, &report(available));
        assert_eq!(auto(&[Tier::Microvm, Tier::Container]), Ok(Tier::Container));
        assert_eq!(auto(&Tier::ALL), Ok(Tier::Wasm));
        let none = Error::TierUnavailable { tier: Tier::Container, reason: "why".into() };
        assert_eq!(auto(&[]), Err(none));
        let wasm = tier(TierRequest::Wasm, &report(&[Tier::Container]));
        assert_eq!(wasm, Err(Error::TierUnavailable { tier: Tier::Wasm, reason: "why".into() }));
    }

    #[test]
    fn templates_resolve_to_what_exists() {
        let report = report(&[Tier::Container]);
        assert_eq!(resolve("py", &report), Ok("py".to_owned()));
        assert_eq!(resolve("base", &report), Ok("host".to_owned()));
        let unknown = resolve("x", &report).expect_err("does not exist");
        assert_eq!(unknown.to_string(), "template: \"x\" is unknown; available: host, py");
    }

    #[test]
    fn limits_beyond_the_host_are_refused() {
        let big = CreateSandbox { instance_type: Some(InstanceType::Premium), ..CreateSandbox::default() };
        let error = place(&big, "base", &report(&[Tier::Container])).expect_err("does not fit");
        assert!(matches!(error, Error::Invalid { ref field, .. } if field == "limits.memory_mib"));
    }
}
