#include "deploy/manifests.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/metrics.h"
#include "deploy/monitoring.h"
#include "deploy/server_args.h"
#include "deploy/workload_reader.h"

namespace moesaic::deploy {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

Service example(Engine engine = Engine::kMoesaic) {
  Service service;
  service.model = "mistralai/Mixtral-8x7B-Instruct-v0.1";
  service.engine = engine;
  service.accelerator = engine == Engine::kNeuron ? "aws.amazon.com/neuron" : "nvidia.com/gpu";
  service.devices_per_node = 2;
  service.tp = 2;
  service.hf_secret = "hf-token";
  complete(service);
  return service;
}

const json::value& at(const json::object& root, const char* pointer) {
  static json::value value;
  value = root;
  return value.at_pointer(pointer);
}

TEST(Names, AnyTextBecomesALabel) {
  EXPECT_EQ(dns_label("mistralai/Mixtral-8x7B-Instruct-v0.1"), "mixtral-8x7b-instruct-v0-1");
  EXPECT_EQ(dns_label("/models/demo/"), "demo");
  EXPECT_EQ(dns_label("01-ai/34B"), "m-34b");
  EXPECT_EQ(dns_label("___"), "m");
  EXPECT_EQ(dns_label(""), "m");
  for (const std::string& text :
       std::vector<std::string>{"a", "Ä", "a..b", "-a-", std::string(500, 'x'),
                                std::string(47, 'x') + "-y", std::string("a\0b", 3)}) {
    EXPECT_TRUE(is_dns_label(dns_label(text), kMaxNameLength)) << dns_label(text);
  }
  EXPECT_FALSE(is_dns_label("", 63));
  EXPECT_FALSE(is_dns_label("1a", 63));
  EXPECT_FALSE(is_dns_label("a-", 63));
  EXPECT_FALSE(is_dns_label("A", 63));
}

TEST(Names, WrongOnesAreRefused) {
  const auto refused = [](auto change) {
    Service service;
    service.model = "m/m";
    change(service);
    EXPECT_THROW(complete(service), base::UsageError);
  };
  refused([](Service& s) { s.name = "Not A Name"; });
  refused([](Service& s) { s.name = std::string(49, 'a'); });
  refused([](Service& s) { s.name_space = "a.b"; });
  refused([](Service& s) { s.path_prefix = "mixtral"; });
  refused([](Service& s) { s.path_prefix = "/a//b"; });
  refused([](Service& s) { s.path_prefix = "/a?b"; });
  refused([](Service& s) { s.image = "a b"; });
  refused([](Service& s) { s.model = "a\nb"; });
  refused([](Service& s) { s.model.clear(); });
  refused([](Service& s) { s.hostname = "Upper_x"; });
  refused([](Service& s) { s.storage_class = "a b"; });
  refused([](Service& s) { s.cache_claim = "../x"; });
  refused([](Service& s) { s.hf_secret = "a..b"; });
  refused([](Service& s) { s.endpoint_picker = "A B"; });
  refused([](Service& s) { s.monitor_label = "a b"; });
  EXPECT_THROW(engine_from("vlm"), base::UsageError);
  EXPECT_EQ(engine_from("tgi"), Engine::kTgi);
}

TEST(Names, WhatKubernetesAllowsIsTaken) {
  Service service;
  service.model = "m/m";
  service.name_space = "3scale";
  service.hf_secret = "1.hub-token";
  service.storage_class = "ebs.gp3";
  service.hostname = "*.example.com";
  service.monitor_label = "Prom_1.x";
  EXPECT_NO_THROW(complete(service));
}

TEST(Engines, WhatTheyCannotDoIsSaid) {
  const auto refused = [](Engine engine, auto change) {
    Service service = example(engine);
    change(service);
    EXPECT_THROW(complete(service), base::ConfigError);
  };
  refused(Engine::kTgi, [](Service& s) { s.nodes = 2; });
  refused(Engine::kTgi, [](Service& s) { s.pp = 2; });
  refused(Engine::kTgi, [](Service& s) { s.accelerator.clear(); });
  refused(Engine::kNeuron, [](Service& s) { s.accelerator = "nvidia.com/gpu"; });
  refused(Engine::kVllm, [](Service& s) { s.accelerator = "aws.amazon.com/neuron"; });
  refused(Engine::kVllm, [](Service& s) { s.tp = 3; });
}

TEST(Workload, ProbesFollowTheLoadTime) {
  Service service = example();
  service.load_seconds = 1000;
  const json::object body = workload_manifest(service);
  const json::value container = at(body, "/spec/template/spec/containers/0");
  const json::value& startup = container.at("startupProbe");
  EXPECT_EQ(startup.at("initialDelaySeconds"), json::value(500));
  const int64_t last =
      500 + startup.at("failureThreshold").as_int64() * startup.at("periodSeconds").as_int64();
  EXPECT_GE(last, 2000);
  EXPECT_GE(at(body, "/spec/progressDeadlineSeconds").as_int64(), last);
}

TEST(Workload, GraceIsMoreThanPreStopAndDrain) {
  Service service = example();
  service.drain_seconds = 300;
  const json::object body = workload_manifest(service);
  const json::value sleep =
      at(body, "/spec/template/spec/containers/0/lifecycle/preStop/exec/command/1");
  EXPECT_GT(at(body, "/spec/template/spec/terminationGracePeriodSeconds").as_int64(),
            300 + std::stoll(std::string(sleep.as_string())));
}

TEST(Workload, ManyNodesAreAGroup) {
  Service service = example(Engine::kVllm);
  service.nodes = 2;
  service.pp = 2;
  complete(service);
  const json::object body = workload_manifest(service);
  EXPECT_EQ(body.at("kind"), json::value("LeaderWorkerSet"));
  const std::string leader = json::serialize(at(body, "/spec/leaderWorkerTemplate/leaderTemplate"));
  const std::string worker = json::serialize(at(body, "/spec/leaderWorkerTemplate/workerTemplate"));
  EXPECT_EQ(leader.find("--headless"), std::string::npos);
  EXPECT_NE(worker.find("--headless"), std::string::npos);
  EXPECT_EQ(worker.find("Probe"), std::string::npos);
  const json::object address = service_manifest(service);
  EXPECT_EQ(at(address, "/spec/selector").at("leaderworkerset.sigs.k8s.io/worker-index"),
            json::value("0"));
}

TEST(Workload, TheSelectorOutlivesTheEngine) {
  const json::value first = at(workload_manifest(example(Engine::kVllm)), "/spec/selector");
  const json::value second = at(workload_manifest(example(Engine::kMoesaic)), "/spec/selector");
  EXPECT_EQ(first, second);
}

TEST(Workload, AnAutoscalerDecidesHowMany) {
  Service service = example();
  EXPECT_FALSE(at(workload_manifest(service), "/spec").as_object().contains("replicas"));
  service.without = {"autoscaler"};
  EXPECT_EQ(at(workload_manifest(service), "/spec/replicas"), json::value(1));
}

TEST(Workload, ReplicasAreSpreadOverZonesAndNodes) {
  Service service = example();
  service.max_replicas = 3;
  const json::value spread =
      at(workload_manifest(service), "/spec/template/spec/topologySpreadConstraints");
  ASSERT_EQ(spread.as_array().size(), 2U);
  for (const json::value& constraint : spread.as_array()) {
    EXPECT_EQ(constraint.at("labelSelector").at("matchLabels"),
              json::value(answering_pods(service)));
    // Where there is one node alone, all go there.
    EXPECT_EQ(constraint.at("whenUnsatisfiable"), json::value("ScheduleAnyway"));
  }
  service.max_replicas = 1;
  EXPECT_FALSE(at(workload_manifest(service), "/spec/template/spec")
                   .as_object()
                   .contains("topologySpreadConstraints"));
}

TEST(Workload, NodesTalkOverTheirFabric) {
  Service service = example(Engine::kVllm);
  service.nodes = 2;
  service.pp = 2;
  service.efa_interfaces = 32;
  complete(service);
  for (const char* pod : {"leaderTemplate", "workerTemplate"}) {
    const json::value limits = at(workload_manifest(service), "/spec/leaderWorkerTemplate")
                                   .at(pod)
                                   .at_pointer("/spec/containers/0/resources/limits");
    EXPECT_EQ(limits.at("vpc.amazonaws.com/efa"), json::value("32"));
    EXPECT_EQ(limits.at("hugepages-2Mi"), json::value("5120Mi"));
  }
}

TEST(Workload, AFirstStartOnNeuronCompiles) {
  const Service service = example(Engine::kNeuron);
  EXPECT_GE(startup_budget(service), 570 * 30);
  EXPECT_LT(startup_budget(example(Engine::kVllm)), 3600);
}

TEST(Parts, AnyMayBeLeftOut) {
  Service service = example();
  const size_t all = manifests(service).size();
  for (std::string_view part : optional_parts()) {
    service.without = {std::string(part)};
    complete(service);
    const auto files = manifests(service);
    EXPECT_EQ(files.size(), all - 1) << part;
    const std::string list = json::serialize(files.back().body);
    EXPECT_EQ(list.find(std::string(part) + ".yaml"), std::string::npos) << part;
  }
  service.without = {"deployment"};
  EXPECT_THROW(complete(service), base::UsageError);
}

TEST(Clients, AreNamespacesAndAddressRanges) {
  Service service = example();
  service.allow_from = {"envoy-gateway-system", "10.0.0.0/8", "2001:db8::/32"};
  complete(service);
  const json::value from = at(network_policy_manifest(service), "/spec/ingress/0/from");
  const std::string text = json::serialize(from);
  EXPECT_NE(text.find("envoy-gateway-system"), std::string::npos);
  EXPECT_NE(text.find(R"({"ipBlock":{"cidr":"10.0.0.0/8"}})"), std::string::npos);
  for (const char* wrong : {"10.0.0.0/33", "10.0.0/8", "a/8", "10.0.0.0/", "A", "1.2.3.4/8x"}) {
    service.allow_from = {wrong};
    EXPECT_THROW(complete(service), base::UsageError) << wrong;
  }
}

TEST(Route, AnEndpointPickerChoosesThePod) {
  Service service = example();
  service.endpoint_picker = "picker";
  complete(service);
  const json::object pool = pool_manifest(service);
  EXPECT_EQ(at(pool, "/spec/endpointPickerRef/name"), json::value("picker"));
  EXPECT_EQ(at(pool, "/spec/targetPorts/0/number"), json::value(service.port));
  EXPECT_EQ(at(pool, "/spec/selector/matchLabels"), json::value(answering_pods(service)));
  EXPECT_EQ(at(route_manifest(service), "/spec/rules/0/backendRefs/0"),
            (json::value{{"group", "inference.networking.k8s.io"},
                         {"kind", "InferencePool"},
                         {"name", service.name}}));
}

TEST(Route, ThePrefixIsCutOff) {
  Service service = example();
  service.path_prefix = "/mixtral";
  EXPECT_EQ(
      at(route_manifest(service), "/spec/rules/0/filters/0/urlRewrite/path/replacePrefixMatch"),
      json::value("/"));
  service.path_prefix = "/";
  complete(service);
  EXPECT_FALSE(at(route_manifest(service), "/spec/rules/0").as_object().contains("filters"));
}

TEST(Monitoring, MetricsOfAlertsAndPanelsAreInTheTable) {
  const auto known = [](const std::string& name) {
    for (const base::MetricRow& row : base::metric_rows()) {
      if (name == row.name) return true;
      if (row.kind != base::MetricKind::kHistogram) continue;
      for (const char* part : {"_bucket", "_sum", "_count"}) {
        if (name == std::string(row.name) + part) return true;
      }
    }
    return false;
  };
  for (Engine engine : {Engine::kMoesaic, Engine::kVllm, Engine::kNeuron}) {
    std::string text(queue_metric(engine));
    for (const Alert& alert : alerts(example(engine))) text += "\n" + alert.expr;
    for (const Panel& panel : panels(engine)) {
      for (const Panel::Query& query : panel.queries) text += "\n" + query.expr;
    }
    size_t names = 0;
    for (const char* prefix : {"vllm:", "moesaic:"}) {
      for (size_t start = text.find(prefix); start != std::string::npos;
           start = text.find(prefix, start + 1)) {
        const size_t end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_:", start);
        const std::string name = text.substr(start, end - start);
        EXPECT_TRUE(known(name)) << name;
        EXPECT_TRUE(engine == Engine::kMoesaic || !name.starts_with("moesaic:")) << name;
        ++names;
      }
    }
    EXPECT_GT(names, 20U);
  }
}

class Folder : public testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::temp_directory_path() / ("moesaic_deploy_" + std::to_string(getpid()));
    fs::remove_all(path_);
  }
  void TearDown() override { fs::remove_all(path_); }
  static std::string read(const fs::path& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  fs::path path_;
};

TEST_F(Folder, OursAreWrittenAgainAndStaleOnesGo) {
  Service service = example(Engine::kVllm);
  write_manifests(path_, manifests(service));
  EXPECT_TRUE(fs::exists(path_ / "deployment.yaml"));
  service.nodes = 2;
  service.pp = 2;
  complete(service);
  write_manifests(path_, manifests(service));
  EXPECT_FALSE(fs::exists(path_ / "deployment.yaml"));
  EXPECT_TRUE(fs::exists(path_ / "leaderworkerset.yaml"));
}

TEST_F(Folder, ForeignFilesAreLeftAlone) {
  fs::create_directories(path_);
  std::ofstream(path_ / "service.yaml") << "mine\n";
  std::ofstream(path_ / "notes.txt") << "mine too\n";
  EXPECT_THROW(write_manifests(path_, manifests(example())), base::UsageError);
  EXPECT_EQ(read(path_ / "service.yaml"), "mine\n");
  EXPECT_FALSE(fs::exists(path_ / "deployment.yaml"));
  fs::remove(path_ / "service.yaml");
  write_manifests(path_, manifests(example()));
  EXPECT_EQ(read(path_ / "notes.txt"), "mine too\n");
}

TEST_F(Folder, ALinkIsNotFollowed) {
  fs::create_directories(path_);
  std::ofstream(path_ / "target") << "# Written by moesaic: but elsewhere\n";
  fs::create_symlink(path_ / "target", path_ / "service.yaml");
  write_manifests(path_, manifests(example()));
  EXPECT_EQ(read(path_ / "target"), "# Written by moesaic: but elsewhere\n");
  EXPECT_FALSE(fs::is_symlink(path_ / "service.yaml"));
}

TEST(Reader, Quantities) {
  EXPECT_EQ(quantity_bytes("64Gi"), int64_t{64} << 30);
  EXPECT_EQ(quantity_bytes("1500M"), 1'500'000'000);
  EXPECT_EQ(quantity_bytes("1e3"), 1000);
  EXPECT_EQ(quantity_bytes("12"), 12);
  for (const char* text : {"", "Gi", "-1", "x", "1Zi", "nan", "1e400", "9999999Pi"}) {
    EXPECT_EQ(quantity_bytes(text), -1) << text;
  }
}

TEST(Reader, OurOwnManifestsAreReadBack) {
  for (Engine engine : {Engine::kMoesaic, Engine::kVllm, Engine::kTgi}) {
    std::string text;
    const Service service = example(engine);
    for (const Manifest& file : manifests(service)) text += "---\n" + file_text(file);
    const ManifestFile read = read_workloads(read_yaml(text, "f.yaml"), "f.yaml");
    ASSERT_EQ(read.workloads.size(), 1U);
    const Workload& workload = read.workloads[0];
    EXPECT_EQ(workload.engine, engine);
    EXPECT_EQ(workload.service.name, service.name);
    EXPECT_EQ(workload.service.devices_per_node, 2);
    EXPECT_EQ(workload.service.cache_claim, service.name + "-cache");
    EXPECT_GE(workload.service.kept.start_seconds, startup_budget(service));
    const json::value resources =
        at(workload_manifest(service), "/spec/template/spec/containers/0/resources");
    EXPECT_EQ(json::value(workload.service.kept.resources), resources);
    // What it does not read, it does not say that it did.
    std::set<std::string> others;
    for (const OtherObject& other : read.others) others.insert(other.kind);
    EXPECT_EQ(others, (std::set<std::string>{"NetworkPolicy", "PrometheusRule", "ConfigMap",
                                             "Kustomization"}));
  }
}

TEST(Reader, WrongTypesNameTheObjectAndItsLine) {
  const auto refused = [](const std::string& text) {
    try {
      read_workloads(read_yaml(text, "f.yaml"), "f.yaml");
    } catch (const base::ModelFileError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const std::string head = "a: b\n---\nkind: Deployment\nmetadata: {name: x}\nspec:\n  template:\n";
  EXPECT_NE(refused(head + "    spec: 3\n").find("Deployment x"), std::string::npos);
  EXPECT_NE(refused(head + "    spec: {containers: x}\n").find("must be a list"),
            std::string::npos);
  EXPECT_NE(refused(head + "    spec: {containers: [1]}\n").find("list of mappings"),
            std::string::npos);
  EXPECT_NE(refused(head + "    spec: {containers: [{args: [{a: b}]}]}\n").find("text"),
            std::string::npos);
  EXPECT_NE(refused("- 1\n").find("no Kubernetes object"), std::string::npos);
  EXPECT_NE(refused("").find("vllm serve"), std::string::npos);
  EXPECT_NE(refused("kind: Service\nmetadata: {name: s}\n").find("Service s"), std::string::npos);
}

}  // namespace
}  // namespace moesaic::deploy
