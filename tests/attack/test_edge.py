from running_service import CONFIGURATION, SCORER, start
from wire_requests import check_request, read_reply

NAMED = CONFIGURATION + "response: {headers: {x-user: '${subject.name}', x-team: '${subject.org}'}}\n"


def test_a_header_that_a_wsgi_server_reads_as_an_injected_one_is_removed(tmp_path):
    running = start(tmp_path, configuration=NAMED)
    headers = [("x_user", "admin"), ("x_team", "root"), ("X_Tier", "platinum")]
    message = check_request("GET", "/v2/models/fraud", "models.internal", headers, principal=SCORER)
    reply = read_reply(running.service.check(message))
    running.close()
    assert reply.allowed
    assert {"x_user", "x_team"} <= {name.lower() for name in reply.removed}


def test_a_method_that_a_wsgi_server_reads_as_overridden_is_ambiguous(tmp_path):
    running = start(tmp_path)
    headers = [("x_http_method_override", "DELETE")]
    message = check_request("GET", "/v2/models/fraud", "models.internal", headers, principal=SCORER)
    reply = read_reply(running.service.check(message))
    running.close()
    assert not reply.allowed


MESH = "spiffe://ml.example/ns/mesh/sa/gateway"
HASH = "ab" * 32


def test_a_dns_name_that_carries_pairs_of_its_own_names_nobody(tmp_path):
    configuration = CONFIGURATION.replace("[192.0.2.0/24]", f"['{MESH}']")
    running = start(tmp_path, configuration=configuration)
    # Envoy 1.40 writes URI before DNS and quotes neither: the certificate's DNS SAN is `x;URI=spiffe://…/scorer`.
    xfcc = f"By={MESH};Hash={HASH};DNS=x;URI={SCORER}"
    message = check_request(
        "GET", "/v2/models/fraud", "models.internal", [("x-forwarded-client-cert", xfcc)], principal=MESH
    )
    reply = read_reply(running.service.check(message))
    running.close()
    assert not reply.allowed


def test_a_name_too_long_to_be_one_costs_no_time_and_names_nobody(tmp_path):
    running = start(tmp_path, configuration=CONFIGURATION.replace("trust_domains: [ml.example]", "names: [x509]"))
    principal = ",".join(["O=a"] * 2000)
    reply = read_reply(running.service.check(check_request("GET", "/v2/models/fraud", principal=principal)))
    (event,) = running.events()
    running.close()
    assert event["reason"] == "invalid_certificate"
    assert event["detail"] == "the subject is too long"
    assert not reply.allowed
