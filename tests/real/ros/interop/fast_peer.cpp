// A node's worth of Fast DDS: reads one ROS 2 topic, takes every message apart with Fast CDR, puts it together again and
// writes it to another topic; or reads only, and says what it read.
//
//   fast_peer DOMAIN JointState|Image reliable|best_effort FROM TO COUNT      (TO "-": nothing is written)
//   fast_peer DOMAIN service NAME                                             (offers a request topic as rmw_fastrtps does)
//
// Prints "ready" once it is matched, one line per message, and ends after COUNT messages or when its input is closed.

#include <fastcdr/Cdr.h>
#include <fastcdr/FastBuffer.h>
#include <fastdds/dds/domain/DomainParticipant.hpp>
#include <fastdds/dds/domain/DomainParticipantFactory.hpp>
#include <fastdds/dds/publisher/DataWriter.hpp>
#include <fastdds/dds/publisher/Publisher.hpp>
#include <fastdds/dds/subscriber/DataReader.hpp>
#include <fastdds/dds/subscriber/SampleInfo.hpp>
#include <fastdds/dds/subscriber/Subscriber.hpp>
#include <fastdds/dds/topic/Topic.hpp>
#include <fastdds/dds/topic/TopicDataType.hpp>
#include <fastdds/dds/topic/TypeSupport.hpp>
#include <fastdds/rtps/transport/UDPv4TransportDescriptor.h>

#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace eprosima::fastdds::dds;
namespace rtps = eprosima::fastrtps::rtps;
using eprosima::fastcdr::Cdr;
using eprosima::fastcdr::FastBuffer;

using Bytes = std::vector<char>;

// A DDS type whose samples are CDR bytes with their encapsulation.
class ReadyBytes : public TopicDataType {
public:
    ReadyBytes(const std::string& name, uint32_t largest) {
        setName(name.c_str());
        m_typeSize = largest;
        m_isGetKeyDefined = false;
    }
    bool serialize(void* data, rtps::SerializedPayload_t* payload) override {
        const Bytes& bytes = *static_cast<Bytes*>(data);
        if (bytes.size() > payload->max_size) return false;
        std::memcpy(payload->data, bytes.data(), bytes.size());
        payload->length = static_cast<uint32_t>(bytes.size());
        payload->encapsulation = CDR_LE;
        return true;
    }
    bool deserialize(rtps::SerializedPayload_t* payload, void* data) override {
        static_cast<Bytes*>(data)->assign(payload->data, payload->data + payload->length);
        return true;
    }
    std::function<uint32_t()> getSerializedSizeProvider(void* data) override {
        return [data]() { return static_cast<uint32_t>(static_cast<Bytes*>(data)->size()); };
    }
    void* createData() override { return new Bytes; }
    void deleteData(void* data) override { delete static_cast<Bytes*>(data); }
    bool getKey(void*, rtps::InstanceHandle_t*, bool) override { return false; }
};

struct Header {
    int32_t sec = 0;
    uint32_t nanosec = 0;
    std::string frame;
    void read(Cdr& cdr) { cdr >> sec >> nanosec >> frame; }
    void write(Cdr& cdr) const { cdr << sec << nanosec << frame; }
};

struct JointState {
    Header header;
    std::vector<std::string> name;
    std::vector<double> position, velocity, effort;
    void read(Cdr& cdr) { header.read(cdr); cdr >> name >> position >> velocity >> effort; }
    void write(Cdr& cdr) const { header.write(cdr); cdr << name << position << velocity << effort; }
    std::string text() const {
        double sum = 0;
        for (double value : position) sum += value;
        char line[128];
        std::snprintf(line, sizeof line, "%d.%09u names=%zu sum=%.6f", header.sec, header.nanosec, name.size(), sum);
        return line;
    }
};

struct Image {
    Header header;
    uint32_t height = 0, width = 0, step = 0;
    std::string encoding;
    uint8_t bigendian = 0;
    std::vector<uint8_t> data;
    void read(Cdr& cdr) { header.read(cdr); cdr >> height >> width >> encoding >> bigendian >> step >> data; }
    void write(Cdr& cdr) const { header.write(cdr); cdr << height << width << encoding << bigendian << step << data; }
    std::string text() const {
        uint64_t sum = 0;
        for (uint8_t value : data) sum += value;
        char line[128];
        std::snprintf(line, sizeof line, "%d.%09u %ux%u %s sum=%llu", header.sec, header.nanosec, width, height, encoding.c_str(), (unsigned long long)sum);
        return line;
    }
};

// Takes bytes apart and puts them together again; what comes out is what Fast CDR makes of the values.
template <class Message>
Bytes again(const Bytes& bytes, std::string& text) {
    FastBuffer in(const_cast<char*>(bytes.data()), bytes.size());
    Cdr reader(in, Cdr::DEFAULT_ENDIAN, Cdr::DDS_CDR);
    reader.read_encapsulation();
    Message message;
    message.read(reader);
    text = message.text();
    Bytes made(bytes.size() + 64, 0);  // zeros: Fast CDR leaves the gaps before aligned values as they are
    FastBuffer out(made.data(), made.size());
    Cdr writer(out, Cdr::LITTLE_ENDIANNESS, Cdr::DDS_CDR);
    writer.serialize_encapsulation();
    message.write(writer);
    made.resize(writer.getSerializedDataLength());
    return made;
}

static DomainParticipant* open_participant(int domain) {
    DomainParticipantQos qos;
    qos.name("fast_peer");
    qos.transport().use_builtin_transports = false;
    auto udp = std::make_shared<eprosima::fastdds::rtps::UDPv4TransportDescriptor>();
    udp->interfaceWhiteList.push_back("127.0.0.1");
    udp->receiveBufferSize = 4 << 20;
    udp->sendBufferSize = 4 << 20;
    qos.transport().user_transports.push_back(udp);
    rtps::Locator_t peer;
    rtps::IPLocator::setIPv4(peer, 127, 0, 0, 1);
    qos.wire_protocol().builtin.initialPeersList.push_back(peer);
    return DomainParticipantFactory::get_instance()->create_participant(domain, qos);
}

static bool input_closed() {
    struct pollfd fd = {0, POLLIN, 0};
    char byte;
    return poll(&fd, 1, 0) > 0 && read(0, &byte, 1) == 0;
}

template <class Policy>
static void set_common(Policy& qos, bool reliable) {
    qos.reliability().kind = reliable ? RELIABLE_RELIABILITY_QOS : BEST_EFFORT_RELIABILITY_QOS;
    qos.durability().kind = VOLATILE_DURABILITY_QOS;
    qos.history().kind = KEEP_LAST_HISTORY_QOS;
    qos.history().depth = 64;
    qos.endpoint().history_memory_policy = rtps::PREALLOCATED_WITH_REALLOC_MEMORY_MODE;
}

static int offer_service(DomainParticipant* participant, const std::string& name) {
    TypeSupport request(new ReadyBytes("std_srvs::srv::dds_::Trigger_Request_", 64)), reply(new ReadyBytes("std_srvs::srv::dds_::Trigger_Response_", 512));
    request.register_type(participant);
    reply.register_type(participant);
    Topic* asked = participant->create_topic("rq" + name + "Request", request.get_type_name(), TOPIC_QOS_DEFAULT);
    Topic* answered = participant->create_topic("rr" + name + "Reply", reply.get_type_name(), TOPIC_QOS_DEFAULT);
    DataReaderQos read = DATAREADER_QOS_DEFAULT;
    DataWriterQos write = DATAWRITER_QOS_DEFAULT;
    set_common(read, true);
    set_common(write, true);
    DataReader* reader = participant->create_subscriber(SUBSCRIBER_QOS_DEFAULT)->create_datareader(asked, read);
    participant->create_publisher(PUBLISHER_QOS_DEFAULT)->create_datawriter(answered, write);
    std::cout << "ready" << std::endl;
    while (!input_closed()) {
        Bytes bytes;
        SampleInfo info;
        while (reader->take_next_sample(&bytes, &info) == ReturnCode_t::RETCODE_OK)
            if (info.valid_data) std::cout << "asked with " << bytes.size() << " bytes" << std::endl;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return 0;
}

int main(int argc, char** argv) {
    DomainParticipant* participant = open_participant(std::atoi(argv[1]));
    if (participant == nullptr) return 3;
    std::string kind = argv[2];
    if (kind == "service") return offer_service(participant, argv[3]);
    if (argc < 7) return 2;
    bool reliable = std::string(argv[3]) == "reliable", image = kind == "Image", echoes = std::string(argv[5]) != "-";
    TypeSupport type(new ReadyBytes("sensor_msgs::msg::dds_::" + kind + "_", image ? 1 << 20 : 4096));
    type.register_type(participant);
    Topic* from = participant->create_topic(argv[4], type.get_type_name(), TOPIC_QOS_DEFAULT);
    DataReaderQos read = DATAREADER_QOS_DEFAULT;
    set_common(read, reliable);
    DataReader* reader = participant->create_subscriber(SUBSCRIBER_QOS_DEFAULT)->create_datareader(from, read);
    DataWriter* writer = nullptr;
    if (echoes) {
        Topic* to = participant->create_topic(argv[5], type.get_type_name(), TOPIC_QOS_DEFAULT);
        DataWriterQos write = DATAWRITER_QOS_DEFAULT;
        set_common(write, reliable);
        write.publish_mode().kind = SYNCHRONOUS_PUBLISH_MODE;
        writer = participant->create_publisher(PUBLISHER_QOS_DEFAULT)->create_datawriter(to, write);
    }
    auto matched = [&]() {
        SubscriptionMatchedStatus heard;
        PublicationMatchedStatus told;
        reader->get_subscription_matched_status(heard);
        if (heard.current_count == 0) return false;
        if (writer == nullptr) return true;
        writer->get_publication_matched_status(told);
        return told.current_count > 0;
    };
    while (!matched() && !input_closed()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::cout << "ready" << std::endl;
    for (int left = std::atoi(argv[6]); left > 0 && !input_closed();) {
        Bytes bytes;
        SampleInfo info;
        if (reader->take_next_sample(&bytes, &info) != ReturnCode_t::RETCODE_OK) {
            std::this_thread::sleep_for(std::chrono::microseconds(500));
            continue;
        }
        if (!info.valid_data) continue;
        std::string text;
        Bytes made = image ? again<Image>(bytes, text) : again<JointState>(bytes, text);
        if (writer != nullptr) writer->write(&made);
        std::cout << text << std::endl;
        --left;
    }
    while (!input_closed()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    DomainParticipantFactory::get_instance()->delete_participant(participant);  // what still hangs on it is reported, not fatal
    return 0;
}
