# .ci/terraform runs tflint with it in every folder that has .tf files.
plugin "terraform" {
  enabled = true
  preset  = "all"
}
