// Classes of a picture by a final's ONNX file, with ONNX Runtime's C++ API and nothing else.
//
//   g++ -std=c++17 -O2 classify.cpp -IONNXRUNTIME/include -LONNXRUNTIME/lib -lonnxruntime -o classify
//   LD_LIBRARY_PATH=ONNXRUNTIME/lib ./classify mobile-1-with-preprocessing.onnx picture.ppm
//
// ONNXRUNTIME is a release of ONNX Runtime, which brings headers and library. The picture is a PPM
// or PGM of 8 bits (binary: P6, P5). A file with preprocessing takes any size; others take theirs.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

constexpr std::size_t MOST_CLASSES_SHOWN = 5;

struct Picture {
  int64_t height, width, channels;  // 1 is grey, 3 is RGB
  std::vector<uint8_t> pixels;      // [height, width, channels]
};

int64_t read_number(std::istream& file) {
  while (file >> std::ws && file.peek() == '#') {  // a comment, to the end of its line
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  int64_t number = 0;
  file >> number;
  return number;
}

Picture read_picture(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  std::string kind(2, ' ');
  file.read(kind.data(), 2);
  if (kind != "P5" && kind != "P6") {
    throw std::runtime_error(path + ": no binary PGM (P5) or PPM (P6)");
  }
  Picture picture{0, 0, kind == "P6" ? 3 : 1, {}};
  picture.width = read_number(file);
  picture.height = read_number(file);
  const int64_t most = read_number(file);
  file.get();  // one blank before the pixels
  const bool whole = file && std::min(picture.width, picture.height) > 0 &&
                     std::max(picture.width, picture.height) <= 65535;
  if (!whole || most != 255) {
    throw std::runtime_error(path + ": allowed are 1 to 65535 pixels a side and values up to 255");
  }
  picture.pixels.resize(picture.height * picture.width * picture.channels);
  file.read(reinterpret_cast<char*>(picture.pixels.data()), picture.pixels.size());
  if (!file) throw std::runtime_error(path + ": ends before its last pixel");
  return picture;
}

// Strings of a JSON list. A file writes all but quotes, backslashes and control characters as they
// are, in UTF-8, so that an escaped character has a code below 128.
std::vector<std::string> parse_names(const std::string& json) {
  std::vector<std::string> names;
  bool inside = false;
  for (std::size_t at = 0; at < json.size(); ++at) {
    if (json[at] == '"') {
      inside = !inside;
      if (inside) names.emplace_back();
    } else if (inside && json[at] == '\\') {
      const char escaped = json.at(++at);
      const std::string letters = "bfnrt", controls = "\b\f\n\r\t";
      const std::size_t place = letters.find(escaped);
      if (escaped == 'u') {
        names.back() += static_cast<char>(std::stoi(json.substr(at + 1, 4), nullptr, 16));
        at += 4;
      } else {
        names.back() += place == std::string::npos ? escaped : controls[place];
      }
    } else if (inside) {
      names.back() += json[at];
    }
  }
  return names;
}

std::vector<std::string> read_classes(const Ort::Session& session, const std::string& path) {
  Ort::AllocatorWithDefaultOptions allocator;
  const auto classes =
      session.GetModelMetadata().LookupCustomMetadataMapAllocated("classes", allocator);
  if (!classes) throw std::runtime_error(path + ": names no classes; nasdistill's files do");
  return parse_names(classes.get());
}

// Planes `[1, channels, height, width]` in [0, 1].
std::vector<float> to_planes(const Picture& picture) {
  const int64_t area = picture.height * picture.width;
  std::vector<float> planes(area * picture.channels);
  for (int64_t place = 0; place < area; ++place) {
    for (int64_t channel = 0; channel < picture.channels; ++channel) {
      planes[channel * area + place] = picture.pixels[place * picture.channels + channel] / 255.0f;
    }
  }
  return planes;
}

std::vector<float> run(Ort::Session& session, const char* input, const Ort::Value& value) {
  const char* output = "logits";
  auto outputs = session.Run(Ort::RunOptions{}, &input, &value, 1, &output, 1);
  const float* logits = outputs[0].GetTensorData<float>();
  return {logits, logits + outputs[0].GetTensorTypeAndShapeInfo().GetElementCount()};
}

// Logits of one picture. A file with preprocessing has the input `image`, others have `images`.
std::vector<float> logits_of(Ort::Session& session, Picture& picture) {
  Ort::AllocatorWithDefaultOptions allocator;
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  if (std::string(session.GetInputNameAllocated(0, allocator).get()) == "image") {
    const std::array<int64_t, 3> shape{picture.height, picture.width, picture.channels};
    return run(session, "image",
               Ort::Value::CreateTensor(memory, picture.pixels.data(), picture.pixels.size(),
                                        shape.data(), shape.size()));
  }
  const auto type = session.GetInputTypeInfo(0);
  const auto taken = type.GetTensorTypeAndShapeInfo().GetShape();  // [batch, C, H, W]
  const std::array<int64_t, 4> shape{1, picture.channels, picture.height, picture.width};
  if (!std::equal(shape.begin() + 1, shape.end(), taken.begin() + 1, taken.end())) {
    auto text = [](const int64_t* sizes) {
      return std::to_string(sizes[2]) + " x " + std::to_string(sizes[1]) + " pixels of " +
             std::to_string(sizes[0]) + " channel(s)";
    };
    throw std::runtime_error("the picture has " + text(shape.data() + 1) + ", the file takes " +
                             text(taken.data() + 1) +
                             "; files exported --with-preprocessing take any");
  }
  auto planes = to_planes(picture);
  return run(session, "images",
             Ort::Value::CreateTensor(memory, planes.data(), planes.size(), shape.data(),
                                      shape.size()));
}

void print_likeliest(const std::vector<float>& logits, const std::vector<std::string>& classes) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  order.resize(std::min(order.size(), MOST_CLASSES_SHOWN));
  for (const std::size_t label : order) {
    std::printf("%.4f %s\n", std::exp(logits[label] - largest) / sum, classes.at(label).c_str());
  }
}

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: classify MODEL.onnx PICTURE.ppm\n");
    return 2;
  }
  try {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "classify");
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    Ort::Session session(env, arguments[1], options);
    const auto classes = read_classes(session, arguments[1]);
    Picture picture = read_picture(arguments[2]);
    print_likeliest(logits_of(session, picture), classes);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "classify: %s\n", error.what());
    return 1;
  }
  return 0;
}
