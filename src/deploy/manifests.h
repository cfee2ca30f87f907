#pragma once

// The files that run a service on Kubernetes, written from deploy::Service.

#include <boost/json.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "deploy/service.h"

namespace moesaic::deploy {

/// A file of the folder.
struct Manifest {
  std::string file;         ///< "deployment.yaml"
  std::string purpose;      ///< one line, for its head and for people
  boost::json::value body;  ///< one Kubernetes object
};

/// Every file of a completed service (deploy::complete), kustomization.yaml last.
std::vector<Manifest> manifests(const Service& service);

/// The manifest as the text of its file: a head that says who wrote it, then YAML.
std::string file_text(const Manifest& manifest);

/// Writes the files into `folder`, made when missing. A file of such a name that this program did
/// not write is left alone, and nothing is written: UsageError. Files of an earlier run that this
/// one has no use for are removed. Returns the paths written. OsError when a file cannot be.
std::vector<std::filesystem::path> write_manifests(const std::filesystem::path& folder,
                                                   const std::vector<Manifest>& files);

// The parts. Each returns one object.
boost::json::object workload_manifest(const Service& service);  ///< Deployment, LeaderWorkerSet
boost::json::object cache_manifest(const Service& service);     ///< PersistentVolumeClaim
boost::json::object service_manifest(const Service& service);
boost::json::object route_manifest(const Service& service);
boost::json::object pool_manifest(const Service& service);  ///< InferencePool
boost::json::object network_policy_manifest(const Service& service);
boost::json::object autoscaler_manifest(const Service& service);
boost::json::object budget_manifest(const Service& service);  ///< PodDisruptionBudget
boost::json::object service_monitor_manifest(const Service& service);
boost::json::object rules_manifest(const Service& service);      ///< PrometheusRule
boost::json::object dashboard_manifest(const Service& service);  ///< ConfigMap

/// What becomes of a group of pods when one of them ends: all start again together, as ranks that
/// have lost one of theirs cannot go on.
constexpr std::string_view kGroupRestart = "RecreateGroupOnPodRestart";

/// Labels by which Service, disruption budget and policies find the pods.
boost::json::object selector_labels(const Service& service);
/// Labels of the pods that answer requests: of a group on several nodes only the leader.
boost::json::object answering_pods(const Service& service);
/// apiVersion, kind, and metadata with name, namespace and labels.
boost::json::object kubernetes_object(const Service& service, std::string_view api,
                                      std::string_view kind, const std::string& name);

/// Gives `body` the labels and annotations that it had before; only managed-by is ours.
void keep_metadata(boost::json::object& body, const boost::json::object& labels,
                   const boost::json::object& annotations);

}  // namespace moesaic::deploy
