# What Google would answer, where the module goes on with the answer. The provider's own
# checks of arguments run on it, so accounts look like accounts.

mock_data "google_project" {
  defaults = { number = "123456789012" }
}

mock_data "google_storage_project_service_account" {
  defaults = { email_address = "service-123456789012@gs-project-accounts.iam.gserviceaccount.com" }
}

mock_resource "google_cloudfunctions2_function" {
  defaults = {
    service_config = {
      service = "projects/acme-security/locations/europe-west1/services/the-service" # not the function's name, to tell them apart
      uri     = "https://whosigned-abc123-ew.a.run.app"
    }
  }
}

mock_resource "google_service_account" {
  defaults = {
    email  = "own@acme-security.iam.gserviceaccount.com"
    member = "serviceAccount:own@acme-security.iam.gserviceaccount.com"
  }
}
