# Firestore: one database per trust boundary, because permissions are per database.
resource "google_firestore_database" "this" {
  for_each                          = local.databases
  project                           = var.project_id
  name                              = each.key
  location_id                       = var.location
  type                              = "FIRESTORE_NATIVE"
  concurrency_mode                  = "OPTIMISTIC"
  delete_protection_state           = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy                   = var.deletion_protection ? "ABANDON" : "DELETE"
  point_in_time_recovery_enablement = contains(["guards", "unsent"], each.key) ? "POINT_IN_TIME_RECOVERY_DISABLED" : "POINT_IN_TIME_RECOVERY_ENABLED"

  dynamic "cmek_config" {
    for_each = var.kms_key[*]
    content {
      kms_key_name = cmek_config.value
    }
  }
  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.agent]

  lifecycle {
    ignore_changes = [cmek_config] # another key is another database, and the one that is there would be given up
  }
}

locals {
  # Read by the code's tests, too: what ends is deleted, and no query orders or filters by a field without an index.
  fields   = jsondecode(file("${path.module}/../shared/cab/data/firestore_fields.json"))
  expiring = { for it in local.fields : "${it.database}/${it.collection}" => it if it.expires }
  # Sweeps of grants that are spread ask by due_at alone no more (`cab grants spread`).
  indexed = { for it in flatten([for it in local.fields : [for field in it.indexed : merge(it, { field = field })]]) :
    "${it.database}/${it.collection}/${it.field}" => it if !(var.grants_are_spread && it.field == "due_at")
  }
  # The same file the code is held to: a query without its index fails in tests, not in production.
  indexes = { for index in jsondecode(file("${path.module}/../shared/cab/data/firestore_indexes.json")) :
    "${index.database}/${index.collection}/${join(",", [for field in index.fields : field.field_path])}" => index
  }
}

# Clean-up only: every reader compares expiry itself, since deletion may lag by a day.
resource "google_firestore_field" "expiry" {
  for_each   = local.expiring
  project    = var.project_id
  database   = google_firestore_database.this[each.value.database].name
  collection = each.value.collection
  field      = "expire_at"

  ttl_config {}
  index_config {} # never queried: no index, no hot spot on ever-growing times
}

resource "google_firestore_field" "indexed" {
  for_each   = local.indexed
  project    = var.project_id
  database   = google_firestore_database.this[each.value.database].name
  collection = each.value.collection
  field      = each.value.field

  index_config {
    indexes {
      order = "ASCENDING"
    }
  }
}

# Every other field: Firestore would keep two entries of each, and of a time that only grows take some 500 writes a second for the whole collection.
resource "google_firestore_field" "others" {
  for_each   = { for it in local.fields : "${it.database}/${it.collection}" => it }
  project    = var.project_id
  database   = google_firestore_database.this[each.value.database].name
  collection = each.value.collection
  field      = "*"

  index_config {}
  depends_on = [google_firestore_field.indexed] # what is asked for keeps its index all the while
}

# What these said of single fields is what is said of all now: left as it is, or Firestore would index those fields for a while.
removed {
  from = google_firestore_field.unindexed
  lifecycle {
    destroy = false
  }
}

removed {
  from = google_firestore_field.due_at
  lifecycle {
    destroy = false
  }
}

resource "google_firestore_index" "this" {
  for_each   = local.indexes
  project    = var.project_id
  database   = google_firestore_database.this[each.value.database].name
  collection = each.value.collection

  dynamic "fields" {
    for_each = each.value.fields
    content {
      field_path = fields.value.field_path
      order      = fields.value.order
    }
  }
}

# Secrets are created empty: no payload ever passes through Terraform or its state.
resource "google_secret_manager_secret" "broker" {
  for_each  = toset(["cab-edge-signing", "cab-sts-signing", "cab-escrow-key", "cab-grant-data-key"])
  project   = var.project_id
  secret_id = each.key
  replication {
    user_managed {
      replicas {
        location = var.location
        dynamic "customer_managed_encryption" {
          for_each = var.kms_key[*]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }
  labels              = var.labels
  version_destroy_ttl = "604800s"
  deletion_protection = var.deletion_protection # without its keys a database that was kept is worth nothing
  depends_on          = [google_project_service.this, google_kms_crypto_key_iam_member.agent]
}

resource "google_secret_manager_secret" "clients" {
  for_each  = var.provider_secrets
  project   = var.project_id
  secret_id = each.key
  replication {
    user_managed {
      replicas {
        location = var.location
        dynamic "customer_managed_encryption" {
          for_each = var.kms_key[*]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }
  labels              = var.labels
  version_destroy_ttl = "604800s"
  depends_on          = [google_project_service.this, google_kms_crypto_key_iam_member.agent]
}
