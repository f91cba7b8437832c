from dataclasses import replace

from facts_builder import TRAIN, facts, settings

from profiler.analysis.site import Site
from profiler.rules.base import Finding, Severity
from profiler.rules.host.anomaly_detection import AnomalyDetection


def test_anomaly_detection_is_told_with_its_line_and_silent_when_off():
    on = replace(settings(), values={"anomaly_mode": True}, sites={"anomaly_mode": Site(TRAIN, 12)})
    finding = AnomalyDetection().check(facts(settings=on))
    assert isinstance(finding, Finding)
    assert finding.title == "autograd's anomaly detection was on at train.py:12"
    assert (finding.severity, finding.fix.line, finding.gain) == (Severity.INFO, 12, None)
    assert AnomalyDetection().check(facts(settings=replace(on, values={"anomaly_mode": False}))) is None
    assert AnomalyDetection().check(facts()) is None
    assert AnomalyDetection().check(facts({}, settings=on)) is None
