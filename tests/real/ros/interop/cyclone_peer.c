/* A node's worth of Cyclone DDS in C, its types made by idlc.
 *
 *   cyclone_peer DOMAIN JointState|Image reliable|best_effort FROM TO COUNT   writes what it read to another topic ("-": does not)
 *   cyclone_peer DOMAIN graph                                                 prints the nodes that ros_discovery_info names
 *   cyclone_peer DOMAIN serve NAME                                            answers std_srvs/Trigger as rmw_cyclonedds does
 *   cyclone_peer DOMAIN call NAME COUNT                                       calls it
 *
 * Prints "ready" once it is matched and a line per message; ends when its input is closed.
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dds/dds.h"
#include "ros.h"

static dds_entity_t participant;

static int input_closed(void) {
  struct pollfd fd = {0, POLLIN, 0};
  char byte;
  return poll(&fd, 1, 0) > 0 && read(0, &byte, 1) == 0;
}

static dds_qos_t *policies(int reliable, const char *user_data) {
  dds_qos_t *qos = dds_create_qos();
  dds_data_representation_id_t first = DDS_DATA_REPRESENTATION_XCDR1;
  dds_qset_reliability(qos, reliable ? DDS_RELIABILITY_RELIABLE : DDS_RELIABILITY_BEST_EFFORT, DDS_SECS(1));
  dds_qset_durability(qos, DDS_DURABILITY_VOLATILE);
  dds_qset_history(qos, DDS_HISTORY_KEEP_LAST, 64);
  dds_qset_data_representation(qos, 1, &first);
  if (user_data != NULL) dds_qset_userdata(qos, user_data, strlen(user_data));
  return qos;
}

static dds_entity_t topic(const dds_topic_descriptor_t *type, const char *prefix, const char *name, const char *suffix) {
  char full[256];
  snprintf(full, sizeof full, "%s%s%s", prefix, name, suffix);
  return dds_create_topic(participant, type, full, NULL, NULL);
}

static int matched(dds_entity_t reader, dds_entity_t writer) {
  dds_subscription_matched_status_t heard;
  dds_publication_matched_status_t told;
  if (dds_get_subscription_matched_status(reader, &heard) != 0 || heard.current_count == 0) return 0;
  if (writer == 0) return 1;
  return dds_get_publication_matched_status(writer, &told) == 0 && told.current_count > 0;
}

static void wait_until_matched(dds_entity_t reader, dds_entity_t writer) {
  while (!matched(reader, writer) && !input_closed()) dds_sleepfor(DDS_MSECS(5));
  puts("ready");
  fflush(stdout);
}

static void say(const void *sample, int image) {
  if (image) {
    const sensor_msgs_msg_dds__Image_ *m = sample;
    unsigned long long sum = 0;
    for (uint32_t i = 0; i < m->data._length; i++) sum += m->data._buffer[i];
    printf("%d.%09u %ux%u %s sum=%llu\n", m->header.stamp.sec, m->header.stamp.nanosec, m->width, m->height, m->encoding, sum);
  } else {
    const sensor_msgs_msg_dds__JointState_ *m = sample;
    double sum = 0;
    for (uint32_t i = 0; i < m->position._length; i++) sum += m->position._buffer[i];
    printf("%d.%09u names=%u sum=%.6f\n", m->header.stamp.sec, m->header.stamp.nanosec, m->name._length, sum);
  }
  fflush(stdout);
}

static int echo(int image, int reliable, const char *from, const char *to, int left) {
  const dds_topic_descriptor_t *type = image ? &sensor_msgs_msg_dds__Image__desc : &sensor_msgs_msg_dds__JointState__desc;
  dds_qos_t *qos = policies(reliable, NULL);
  dds_entity_t reader = dds_create_reader(participant, topic(type, "", from, ""), qos, NULL), writer = 0;
  if (strcmp(to, "-") != 0) writer = dds_create_writer(participant, topic(type, "", to, ""), qos, NULL);
  dds_delete_qos(qos);
  wait_until_matched(reader, writer);
  while (left > 0 && !input_closed()) {
    void *samples[1] = {NULL};
    dds_sample_info_t info[1];
    int taken = dds_take(reader, samples, info, 1, 1);
    if (taken <= 0) {
      dds_sleepfor(DDS_USECS(500));
      continue;
    }
    if (info[0].valid_data) {
      if (writer != 0 && dds_write(writer, samples[0]) != 0) return 4;
      say(samples[0], image);
      left--;
    }
    dds_return_loan(reader, samples, taken);
  }
  while (!input_closed()) dds_sleepfor(DDS_MSECS(5));
  return 0;
}

static int graph(void) {
  dds_qos_t *qos = policies(1, NULL);
  dds_qset_durability(qos, DDS_DURABILITY_TRANSIENT_LOCAL);
  dds_qset_history(qos, DDS_HISTORY_KEEP_LAST, 1);
  dds_entity_t reader =
      dds_create_reader(participant, topic(&rmw_dds_common_msg_dds__ParticipantEntitiesInfo__desc, "ros_discovery_info", "", ""), qos, NULL);
  dds_delete_qos(qos);
  while (!input_closed()) {
    void *samples[1] = {NULL};
    dds_sample_info_t info[1];
    int taken = dds_take(reader, samples, info, 1, 1);
    if (taken <= 0) {
      dds_sleepfor(DDS_MSECS(5));
      continue;
    }
    if (info[0].valid_data) {
      const rmw_dds_common_msg_dds__ParticipantEntitiesInfo_ *m = samples[0];
      for (uint32_t i = 0; i < m->node_entities_info_seq._length; i++) {
        const rmw_dds_common_msg_dds__NodeEntitiesInfo_ *node = &m->node_entities_info_seq._buffer[i];
        printf("node %s %s readers=%u writers=%u\n", node->node_namespace, node->node_name, node->reader_gid_seq._length, node->writer_gid_seq._length);
      }
      fflush(stdout);
    }
    dds_return_loan(reader, samples, taken);
  }
  return 0;
}

/* clientid= or serviceid=, made of the participant's GUID and a number, as rmw_cyclonedds writes it. */
static void identity(char *out, size_t size, const char *role) {
  dds_guid_t guid;
  int at = snprintf(out, size, "%s=", role);
  dds_get_guid(participant, &guid);
  for (int i = 0; i < 12; i++) at += snprintf(out + at, size - (size_t)at, "%x.", guid.v[i]);
  snprintf(out + at, size - (size_t)at, "0.0.0.1;");
}

static int serve(const char *name) {
  char who[128];
  identity(who, sizeof who, "serviceid");
  dds_qos_t *qos = policies(1, who);
  dds_entity_t reader = dds_create_reader(participant, topic(&std_srvs_srv_dds__Trigger_Request__desc, "rq", name, "Request"), qos, NULL);
  dds_entity_t writer = dds_create_writer(participant, topic(&std_srvs_srv_dds__Trigger_Response__desc, "rr", name, "Reply"), qos, NULL);
  dds_delete_qos(qos);
  wait_until_matched(reader, writer);
  while (!input_closed()) {
    void *samples[1] = {NULL};
    dds_sample_info_t info[1];
    int taken = dds_take(reader, samples, info, 1, 1);
    if (taken <= 0) {
      dds_sleepfor(DDS_USECS(500));
      continue;
    }
    if (info[0].valid_data) {
      const std_srvs_srv_dds__Trigger_Request_ *asked = samples[0];
      char text[64];
      std_srvs_srv_dds__Trigger_Response_ answer = {asked->client, asked->sequence_number, true, text};
      snprintf(text, sizeof text, "request %lld", (long long)asked->sequence_number);
      dds_write(writer, &answer);
    }
    dds_return_loan(reader, samples, taken);
  }
  return 0;
}

static int call(const char *name, int count) {
  char who[128];
  identity(who, sizeof who, "clientid");
  dds_qos_t *qos = policies(1, who);
  dds_entity_t writer = dds_create_writer(participant, topic(&std_srvs_srv_dds__Trigger_Request__desc, "rq", name, "Request"), qos, NULL);
  dds_entity_t reader = dds_create_reader(participant, topic(&std_srvs_srv_dds__Trigger_Response__desc, "rr", name, "Reply"), qos, NULL);
  dds_instance_handle_t handle;
  dds_delete_qos(qos);
  dds_get_instance_handle(writer, &handle);
  wait_until_matched(reader, writer);
  for (int i = 1; i <= count && !input_closed(); i++) {
    std_srvs_srv_dds__Trigger_Request_ request = {handle, i, 0};
    if (dds_write(writer, &request) != 0) return 4;
    for (int answered = 0; !answered && !input_closed();) {
      void *samples[1] = {NULL};
      dds_sample_info_t info[1];
      int taken = dds_take(reader, samples, info, 1, 1);
      if (taken <= 0) {
        dds_sleepfor(DDS_USECS(500));
        continue;
      }
      const std_srvs_srv_dds__Trigger_Response_ *answer = samples[0];
      if (info[0].valid_data && answer->client == handle && answer->sequence_number == i) {
        printf("answer %d %s %s\n", i, answer->success ? "true" : "false", answer->message);
        fflush(stdout);
        answered = 1;
      }
      dds_return_loan(reader, samples, taken);
    }
  }
  while (!input_closed()) dds_sleepfor(DDS_MSECS(5));
  return 0;
}

int main(int argc, char **argv) {
  int status = 2;
  if (argc < 3) return 2;
  participant = dds_create_participant((dds_domainid_t)atoi(argv[1]), NULL, NULL);
  if (participant < 0) return 3;
  if (strcmp(argv[2], "graph") == 0) status = graph();
  else if (strcmp(argv[2], "serve") == 0 && argc == 4) status = serve(argv[3]);
  else if (strcmp(argv[2], "call") == 0 && argc == 5) status = call(argv[3], atoi(argv[4]));
  else if (argc == 7) status = echo(strcmp(argv[2], "Image") == 0, strcmp(argv[3], "reliable") == 0, argv[4], argv[5], atoi(argv[6]));
  dds_delete(participant);
  return status;
}
