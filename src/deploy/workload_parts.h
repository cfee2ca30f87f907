#pragma once

// How one workload of a manifest is read; for workload_*.cpp only.

#include <algorithm>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "deploy/json_reader.h"
#include "deploy/server_start.h"
#include "deploy/workload_reader.h"

namespace moesaic::deploy {

/// An object of the file, whatever its kind.
struct Object {
  const boost::json::object* body;
  Place place;
  std::string kind;
  std::string name;
  std::string name_space;
  bool made = false;          ///< its body is a Deployment's, made from another kind of object
  std::string source{};       ///< the name of that object
  mutable bool used = false;  ///< it went into what is written
  mutable std::string why{};  ///< why it was not read
};

/// Whether a resource of that name is a GPU or Neuron device.
bool is_accelerator(std::string_view resource);

/// Whether the kind has a pod template that is looked into.
bool has_pod(const Object& object);

/// A Deployment that does what an object of KServe or Ray has its controller do.
struct MadeDeployment {
  boost::json::object body;
  std::vector<Finding> findings;
  std::vector<std::string> blockers;
};

/// The Deployments for an InferenceService, LLMInferenceService or RayService among `all`; none for
/// other kinds, and where its settings stand in code: `object.why` says so then.
std::vector<MadeDeployment> made_deployments(const Object& object, const std::vector<Object>& all);

/// Whether every label of `selector`, which has some, stands among `labels`.
bool selects(const boost::json::object& selector, const boost::json::object& labels);

/// What of a cluster's object can be applied again: without status, versions and owners.
boost::json::object portable(const Object& object);

/// Annotations without kubectl's and the controllers' own notes.
boost::json::object own_annotations(const boost::json::object& annotations);

/// Reads one workload; its parts are filled into `out_`.
class WorkloadReader {
 public:
  WorkloadReader(const Object& object, const std::vector<Object>& all);
  /// What is known already of an object that was made.
  void know(const MadeDeployment& made);

  /// Whether a container of it runs a server.
  bool find();
  Workload read();

 private:
  using Names = std::initializer_list<std::string_view>;

  void kept(std::string text);
  void changed(std::string text);
  void left_out(std::string text);

  // workload_reader.cpp: which container, and its environment
  bool find_container();
  void note_unread(const boost::json::object& container);
  bool is_server(const boost::json::object& container, bool by_image);
  void read_environment(const boost::json::object& container);
  void read_config_maps(const boost::json::object& container);
  void read_variable(const boost::json::object& entry);

  // workload_pod.cpp: the workload and its pod
  /// What `object` has beside `known` is reported as left out.
  void report_rest(const boost::json::object& object, std::string_view where, Names known);
  void read_names();
  void read_labels();
  void read_image();
  void read_pod();
  void read_security();
  void read_neighbours();
  void read_grace();
  void read_replicas();
  void read_rest();

  // workload_resources.cpp: what the container gets
  void read_resources();
  void read_device(const std::string& name, const std::string& text);
  void read_volumes();
  void choose_cache();
  bool is_shared(const std::string& volume) const;
  bool serves_from(const std::string& path) const;
  void take_cache(const boost::json::object& mount);
  void size_as(const boost::json::object& volume);
  void set_hub_home(const std::string& path);
  std::string free_path() const;
  void make_cache();
  std::string moved_path(const std::string& path);
  void take_mount(const boost::json::object& mount);
  void keep_volumes();
  void rename_mounts(boost::json::array& containers) const;
  void read_probes();

  // workload_around.cpp: the objects around it
  void read_service();
  void read_ports();
  void without_service();
  void read_service_port(const boost::json::object& port, const Place& place);
  void read_claim();
  void read_autoscaler();
  void read_budget();
  void read_route();
  void read_monitors();

  /// The first unused object with a name, of a kind, for which `fits` holds, one of this workload's
  /// own namespace first, then one that may be in it; null when there is none.
  template <typename Fits>
  const Object* other(std::string_view kind, Fits fits) const {
    for (const bool exactly : {true, false}) {
      for (const Object& object : all_) {
        if (object.kind != kind || object.used || object.name.empty()) continue;
        if (exactly ? object.name_space != object_.name_space : !may_be_ours(object)) continue;
        if (fits(object)) return &object;
      }
    }
    return nullptr;
  }
  bool may_be_ours(const Object& object) const;
  /// Marks it as read.
  void take(const Object& object);

  const Object& object_;
  const std::vector<Object>& all_;
  Place place_;
  const boost::json::object* pod_ = nullptr;
  const boost::json::object* spec_ = nullptr;
  const boost::json::object* container_ = nullptr;
  ServerStart start_;
  std::map<std::string, const boost::json::object*> volumes_;  ///< of the pod, by name
  std::map<std::string, std::string> volume_names_;            ///< old name to ours
  std::string cache_mount_;                                    ///< where the cache was mounted
  bool serves_from_kept_ = false;  ///< the model lies on a volume that stays as it is
  Workload out_;
};

}  // namespace moesaic::deploy
