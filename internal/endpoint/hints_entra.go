package endpoint

import (
	"regexp"
	"strings"
)

// entraCode finds an error code of Microsoft Entra ID in its words. They say more than OAuth's codes.
var entraCode = regexp.MustCompile(`\bAADSTS(\d+)\b`)

// entraHint is for refusals of Entra ID whose cause its code names.
func (r Request) entraHint(f *Error) string {
	code := entraCode.FindStringSubmatch(f.Said)
	if code == nil {
		return ""
	}
	switch code[1] {
	case "70021", "700211", "700212", "700213", "7002137", "7002138":
		hint := "no federated credential of the app registration is for this assertion; compare its issuer, subject and audience with those of the federated credential in Entra ID, to the last slash and with the same capitals"
		if ready, err := parseReadyAssertion(r.ClientAssertion); err == nil {
			hint += ": " + ready.String()
		}
		return hint
	case "700024":
		if f.seen.skew != 0 {
			return DescribeSkew(f.seen.skew) + ", so the client's assertion was not within its time; set it right"
		}
		return "the client's assertion was not within its time when it arrived; compare the clocks of both sides, and see that one that comes from a file is renewed before it ends"
	case "700023":
		return "Entra ID does not call itself what aud is in the client's assertion; remove audience from the block of signing_key, or set it to the URL of the token endpoint"
	case "700027":
		switch {
		case strings.Contains(f.Said, "key used is expired"):
			return "the certificate of the client's assertion has ended; make a new one, upload it to the app registration, and replace the files of signing_key and of its certificate"
		case strings.Contains(f.Said, "did not match"):
			return "Entra ID has the certificate of the client's assertion, but its signature does not match; see that signing_key is the certificate's key"
		}
		return "Entra ID does not find the key of the client's assertion; upload its certificate to the app registration, and compare the thumbprint there with that of certificate in the block of signing_key, or with its key_id"
	case "7000215":
		return "the secret is wrong; Entra ID shows a secret's ID beside its value, and the value is what client_secret needs"
	case "7000222":
		return "the secret has ended; make a new one for the app registration in Entra ID"
	case "700016":
		return "there is no such application in this tenant; compare client_id with the Application (client) ID, and the tenant in the endpoint's URL with the directory (tenant) ID in Entra ID"
	case "7000112":
		return "the application is disabled in Entra ID; have it enabled there"
	case "7000229":
		return "the application has no service principal in this tenant; have an administrator consent to it in Entra ID"
	case "1002012", "70011":
		return "a client without a user can't choose permissions; set scope to the API's Application ID URI with /.default after it, and give the permissions to the app registration in Entra ID"
	case "90002", "900023":
		return "there is no such tenant; compare the tenant in the endpoint's URL with the directory (tenant) ID in Entra ID"
	case "500011":
		return "there is no such API in this tenant; compare the part of scope before /.default (or resource) with the API's Application ID URI"
	}
	return ""
}
